package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestMain lets this test binary be the router: the tests below start it again with ROUTER_UNDER_TEST set, so they see
// real processes, signals and exit codes without another build.
func TestMain(m *testing.M) {
	if os.Getenv("ROUTER_UNDER_TEST") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// usable needs no model: it has no embedding rule.
const usable = `
vllm_endpoints: [{ name: lab, address: 127.0.0.1, port: 8000 }]
model_config: { small: { preferred_endpoints: [lab] } }
keyword_rules: [{ name: urgent, operator: OR, keywords: [urgent] }]
decisions: [{ name: d, rules: { conditions: [{ type: keyword, name: urgent }] }, modelRefs: [{ model: small, use_reasoning: false }] }]
default_model: small
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func router(t *testing.T, environment []string, arguments ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], arguments...)
	command.Env = append(append(os.Environ(), "ROUTER_UNDER_TEST=1", "CONFIG_FILE=", "SR_LOG_LEVEL=", "SR_LOG_ENCODING="), environment...)
	return command
}

func TestCommandLine(t *testing.T) {
	good, warned := writeConfig(t, usable), writeConfig(t, usable+"unknown_key: 1\n")
	bad := writeConfig(t, usable+"unknown_key: 1\nstrategy: 7\ntools: []\n")
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	needsModel := writeConfig(t, usable+"bert_model: { model_id: "+absent+" }\nembedding_rules: [{ name: e, candidates: [x] }]\n")
	for _, c := range []struct {
		name           string
		environment    []string
		arguments      []string
		code           int
		stdout, stderr string // each a part of the whole; stdout "" wants none
	}{
		{"clean", nil, []string{"--check-config", "--config", good}, 0, "", ""},
		{"file by environment", []string{"CONFIG_FILE=" + warned}, []string{"--check-config"}, 0, warned + ":7: warning: unknown_key: unknown key\n", ""},
		{"all findings at once", nil, []string{"--check-config", "--config", bad}, 1, bad + ":7: warning: unknown_key: unknown key\n" +
			bad + ":8: error: strategy: `7` is not one of priority, confidence\n" + bad + ":9: error: tools: wanted a mapping, got a list\n", "cannot be used"},
		{"start with a bad file", nil, []string{"--config", bad}, 1, "", bad + ":9: error: tools"},
		{"missing file", nil, []string{"--config", absent}, 1, "", "open " + absent + ": no such file or directory (name the file with --config or CONFIG_FILE)"},
		{"missing model", nil, []string{"--config", needsModel, "--port=0", "--api-port=0", "--metrics-port=0"}, 1, "", "load the embedding model: stat " + absent},
		{"unknown flag", nil, []string{"--prot", "1"}, 1, "", "flag provided but not defined: -prot; see --help"},
		{"argument without flag", nil, []string{"serve"}, 1, "", "unexpected argument `serve`"},
		{"help", nil, []string{"--help"}, 0, "usage: semantic-router [flags]\n", ""},
		{"version", nil, []string{"--version"}, 0, "semantic-router dev\n", ""},
		{"unknown endpoint", nil, []string{"--config", good, "--endpoint", "lap=127.0.0.1:1"}, 1, "", "--endpoint `lap=127.0.0.1:1`: no endpoint has this name; the configuration has lab"},
		{"log level", []string{"SR_LOG_LEVEL=loud"}, []string{"--config", good}, 1, "", "SR_LOG_LEVEL is `loud`; valid: debug, info, warn, error"},
		{"Envoy's configuration", nil, []string{"--config", good, "--print-envoy", "--envoy-port=9001", "--endpoint", "lab=127.0.0.1:9002", "--layout=cluster"}, 0, "port_value: 9002", ""},
		{"unknown layout", nil, []string{"--config", good, "--print-envoy", "--layout=mesh"}, 1, "", "valid: original-dst, cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := router(t, c.environment, c.arguments...)
			var stdout, stderr bytes.Buffer
			command.Stdout, command.Stderr = &stdout, &stderr
			_ = command.Run() // the code below says how it ended
			if code := command.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if c.stdout == "" && stdout.Len() > 0 || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stdout:\n%s\nstderr:\n%s", &stdout, &stderr)
			}
		})
	}
}

// process is a running router with its log.
type process struct {
	*exec.Cmd
	t         *testing.T
	log       *bufio.Scanner
	addresses map[string]string // by server, as the log tells them
}

func startRouter(t *testing.T) *process {
	t.Helper()
	p := &process{Cmd: router(t, nil, "--config", writeConfig(t, usable), "--port=0", "--api-port=0", "--metrics-port=0"), t: t, addresses: map[string]string{}}
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.log = bufio.NewScanner(stderr)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.await("ready")
	return p
}

// await reads the log up to an event.
func (p *process) await(event string) {
	p.t.Helper()
	for p.log.Scan() {
		var line struct{ Msg, Server, Address string }
		if err := json.Unmarshal(p.log.Bytes(), &line); err != nil {
			p.t.Fatalf("the log line %q is not JSON: %v", p.log.Text(), err)
		}
		if line.Msg == "listening" {
			p.addresses[line.Server] = line.Address
		}
		if line.Msg == event {
			return
		}
	}
	p.t.Fatalf("the log ended before the event %s: %v", event, p.log.Err())
}

func (p *process) terminate() {
	p.t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

func TestReadyServesAndStopsOnSIGTERM(t *testing.T) {
	p := startRouter(t)
	for url, want := range map[string]string{
		p.addresses["api"] + "/health": "healthy", p.addresses["api"] + "/ready": "ready", p.addresses["api"] + "/v1/models": `"id":"MoM"`,
		p.addresses["metrics"] + "/metrics": "llm_model_routing_latency_seconds_count 0",
	} {
		response, err := http.Get("http://" + url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v %d %s", url, err, response.StatusCode, body)
		}
	}
	if p.addresses["ext_proc"] == "" {
		t.Error("no gRPC address in the log")
	}

	second := router(t, nil, "--config", writeConfig(t, usable), "--api-port", portOf(p.addresses["api"]))
	if output, _ := second.CombinedOutput(); second.ProcessState.ExitCode() != 1 || !strings.Contains(string(output), "open the api port: listen tcp "+p.addresses["api"]) {
		t.Errorf("a taken port: %d %s", second.ProcessState.ExitCode(), output)
	}

	p.terminate()
	p.await("stopped")
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM the process ended with %v", err)
	}
}

func TestSIGTERMWaitsForRequestsAndASecondOneDoesNot(t *testing.T) {
	p := startRouter(t)
	connection, err := grpc.NewClient(p.addresses["ext_proc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	stream, err := extprocv3.NewExternalProcessorClient(connection).Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		if err := stream.Send(&extprocv3.ProcessingRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	exchange()
	p.terminate()
	p.await("draining")
	exchange() // still answered

	p.terminate()
	_ = p.Wait() // the signal below says how it ended
	if status := p.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("after a second SIGTERM the process ended with %v", p.ProcessState)
	}
}

func portOf(address string) string { return address[strings.LastIndex(address, ":")+1:] }
