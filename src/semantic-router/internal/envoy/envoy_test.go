package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify/classifytest"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/endpoint"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/envoy"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/extproc"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/metrics"
)

// configuration has a %d for the port of each of two backends; the second serves only the model `strong`.
const configuration = `
bert_model: { model_id: unused }
vllm_endpoints: [{ name: lab, address: 127.0.0.1, port: %d }, { name: vault, address: 127.0.0.1, port: %d }]
model_config:
  small: { preferred_endpoints: [lab] }
  coder: { preferred_endpoints: [lab], loras: [{ name: coder-cpp }] }
  strong: { preferred_endpoints: [vault], access_key: sk-backend }
  accountant: { preferred_endpoints: [lab] }
keyword_rules:
  - { name: urgent, operator: OR, keywords: [紧急] }
  - { name: cpp, operator: OR, keywords: [c++] }
embedding_rules:
  - { name: invoices, threshold: 0.8, candidates: [refund a payment] }
decisions:
  - { name: urgent, priority: 9, rules: { conditions: [{ type: keyword, name: urgent }] }, modelRefs: [{ model: strong, use_reasoning: false }] }
  - { name: code, rules: { conditions: [{ type: keyword, name: cpp }] }, modelRefs: [{ model: coder, lora_name: coder-cpp, use_reasoning: false }] }
  - { name: billing, rules: { conditions: [{ type: embedding, name: invoices }] }, modelRefs: [{ model: accountant, use_reasoning: false }] }
default_model: small
`

// backend records what reaches it.
type backend struct {
	*httptest.Server
	mutex    sync.Mutex
	requests []recorded
	release  chan struct{} // lets an event stream go on after its first event
}

type recorded struct {
	header http.Header
	path   string
	body   []byte
}

func newBackend(t *testing.T) *backend {
	b := &backend{release: make(chan struct{})}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mutex.Lock()
		b.requests = append(b.requests, recorded{r.Header, r.URL.Path, body})
		b.mutex.Unlock()
		if !bytes.Contains(body, []byte(`"stream":true`)) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"n\":1}\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-b.release:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) taken() []recorded {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	taken := b.requests
	b.requests = nil
	return taken
}

func (b *backend) port() int {
	return int(netip.MustParseAddrPort(b.Listener.Addr().String()).Port())
}

// envoyBinary is the Envoy that XTASK_ENVOY names. Without one the test is skipped, or fails if XTASK_REQUIRE wants it.
func envoyBinary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("XTASK_ENVOY")
	if binary == "" {
		required := strings.FieldsFunc(os.Getenv("XTASK_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(required, "envoy") || slices.Contains(required, "all") {
			t.Fatal("XTASK_REQUIRE wants a real Envoy, but XTASK_ENVOY names none")
		}
		t.Skip("skipped: XTASK_ENVOY names no Envoy binary")
	}
	return binary
}

// stack is two backends, a router and an Envoy on free loopback ports.
type stack struct {
	t       *testing.T
	backend *backend
	vault   *backend
	router  *extproc.Server
	url     string
}

// startStack waits until Envoy listens. edit may change the bootstrap.
func startStack(t *testing.T, layout envoy.Layout, edit func(bootstrap []byte) []byte) *stack {
	t.Helper()
	binary := envoyBinary(t)
	s := &stack{t: t, backend: newBackend(t), vault: newBackend(t)}

	cfg, findings := config.Parse("test.yaml", fmt.Appendf(nil, configuration, s.backend.port(), s.vault.port()), config.Options{})
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	embeddings, err := classify.NewEmbeddingRules(cfg.EmbeddingRules, classifytest.Embedder{})
	if err != nil {
		t.Fatal(err)
	}
	s.router = extproc.NewServer(cfg, embeddings, endpoint.NewTable(t.Context(), cfg.Endpoints, endpoint.DNS), metrics.New(cfg))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.router.Serve(listener)
	t.Cleanup(s.stopRouter)

	options := envoy.Options{Layout: layout, ListenAddress: "127.0.0.1", RouterPort: listener.Addr().(*net.TCPAddr).Port}
	if layout == envoy.PerModelCluster {
		options.RouterHost = "localhost" // a name, as between containers
	}
	bootstrap, err := envoy.Bootstrap(cfg, options)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	bootstrapPath, adminPath := filepath.Join(directory, "envoy.yaml"), filepath.Join(directory, "admin")
	if err := os.WriteFile(bootstrapPath, edit(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(directory, "log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(binary, "-c", bootstrapPath, "--admin-address-path", adminPath, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn")
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("Envoy's log:\n%s", text)
		}
	})
	s.url = s.listenerURL(adminPath)
	return s
}

// listenerURL asks Envoy's admin interface on which port it took.
func (s *stack) listenerURL(adminPath string) string {
	s.t.Helper()
	var last error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		admin, err := os.ReadFile(adminPath)
		if err != nil {
			last = err
			continue
		}
		response, err := http.Get("http://" + strings.TrimSpace(string(admin)) + "/listeners?format=json")
		if err != nil {
			last = err
			continue
		}
		var listeners struct {
			Statuses []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		last = json.NewDecoder(response.Body).Decode(&listeners)
		response.Body.Close()
		if last == nil && len(listeners.Statuses) == 1 {
			socket := listeners.Statuses[0].Address.Socket
			return "http://" + net.JoinHostPort(socket.Address, strconv.Itoa(socket.Port))
		}
	}
	s.t.Fatalf("Envoy did not start: %v", last)
	return ""
}

func (s *stack) stopRouter() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.router.Drain(ctx)
}

// send returns status, headers and body of Envoy's answer.
func (s *stack) send(method, path, body string, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(answer)
}

func chat(text string) string {
	return `{"seed":12345678901234567890,"model":"auto","messages":[{"role":"user","content":"` + text + `"}],"guided_json":{"b":9007199254740993,"a":1.10}}`
}

func TestRealEnvoy(t *testing.T) {
	for _, layout := range []envoy.Layout{envoy.OriginalDst, envoy.PerModelCluster} {
		t.Run(string(layout), func(t *testing.T) {
			s := startStack(t, layout, func(bootstrap []byte) []byte { return bootstrap })

			t.Run("each decision picks its model and the body is otherwise exact", func(t *testing.T) {
				for _, c := range []struct{ text, decision, model string }{
					{"这是紧急情况", "urgent", "strong"}, {"why C++?", "code", "coder-cpp"}, {"money back please, a refund", "billing", "accountant"}, {"hello", "", "small"},
				} {
					status, headers, answer := s.send("POST", "/v1/chat/completions", chat(c.text), "authorization", "Bearer client", "x-selected-model", "coder")
					if status != 200 || headers.Get("x-vsr-selected-decision") != c.decision || headers.Get("x-vsr-selected-model") != c.model || !strings.Contains(answer, `"usage"`) {
						t.Errorf("%s: %d %v %s", c.text, status, headers, answer)
					}
					got := map[bool]*backend{true: s.vault, false: s.backend}[c.model == "strong"].taken()
					if want := strings.Replace(chat(c.text), `"auto"`, `"`+c.model+`"`, 1); len(got) != 1 || string(got[0].body) != want {
						t.Fatalf("%s: the backend got %s, want %s", c.text, got, want)
					}
					authorization := map[bool]string{true: "Bearer sk-backend", false: "Bearer client"}[c.model == "strong"]
					if h := got[0].header; h.Get("authorization") != authorization || len(h["X-Selected-Model"]) != 1 || h.Get("x-selected-model") != c.model || h.Get("accept-encoding") != "" {
						t.Errorf("%s: the backend got %v", c.text, h)
					}
				}
			})

			t.Run("a client cannot choose the destination", func(t *testing.T) {
				evil := newBackend(t)
				forged := []string{"x-vsr-destination-endpoint", evil.Listener.Addr().String(), "X-VSR-Other", "1"}
				if status, _, _ := s.send("POST", "/v1/chat/completions", chat("hello"), forged...); status != 200 {
					t.Errorf("status %d", status)
				}
				for _, request := range s.backend.taken() {
					if request.header.Get("x-vsr-other") != "" {
						t.Error("a client's x-vsr-other reached the backend")
					}
				}
				status, _, _ := s.send("POST", "/v1/embeddings", `{}`, forged...)
				if layout == envoy.OriginalDst && status != 503 || layout == envoy.PerModelCluster && status != 200 {
					t.Errorf("another path with a forged destination is answered %d", status)
				}
				s.backend.taken()
				if got := evil.taken(); len(got) > 0 {
					t.Errorf("the client's own destination got %v", got)
				}
			})

			t.Run("bad requests are answered 400 and reach no backend", func(t *testing.T) {
				for _, body := range []string{"no json", `{"model":"auto"}`, `{"messages":[{"role":"user","content":"x"}]}`, ""} {
					status, headers, answer := s.send("POST", "/v1/chat/completions", body)
					if status != 400 || headers.Get("content-type") != "application/json" || !strings.Contains(answer, `"type":"invalid_request_error"`) {
						t.Errorf("%q: %d %s", body, status, answer)
					}
				}
				if got := s.backend.taken(); len(got) > 0 {
					t.Errorf("the backend got %v", got)
				}
			})

			t.Run("GET /v1/models", func(t *testing.T) {
				if status, _, answer := s.send("GET", "/v1/models", ""); status != 200 || !strings.Contains(answer, `"id":"MoM"`) {
					t.Errorf("%d %s", status, answer)
				}
			})

			t.Run("bodies above Envoy's and gRPC's defaults pass, above the limit they do not", func(t *testing.T) {
				if status, _, answer := s.send("POST", "/v1/chat/completions", chat(strings.Repeat("a ", 3<<20))); status != 200 {
					t.Errorf("6 MiB: %d %s", status, answer)
				}
				s.backend.taken()
				if status, _, _ := s.send("POST", "/v1/chat/completions", chat(strings.Repeat("a ", 26<<20)), "expect", "100-continue"); status != 413 {
					t.Errorf("52 MiB: %d", status)
				}
				if got := s.backend.taken(); len(got) > 0 {
					t.Error("a body above the limit reached the backend")
				}
			})

			t.Run("event streams arrive event by event", func(t *testing.T) {
				client := &http.Client{Timeout: 20 * time.Second} // a buffered stream would never begin
				response, err := client.Post(s.url+"/v1/chat/completions", "application/json", strings.NewReader(`{"stream":true,"model":"auto","messages":[{"role":"user","content":"x"}]}`))
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				events := bufio.NewReader(response.Body)
				if line, err := events.ReadString('\n'); err != nil || line != "data: {\"n\":1}\n" || response.Header.Get("x-vsr-selected-model") != "small" {
					t.Errorf("%v %q %v", err, line, response.Header)
				}
				close(s.backend.release) // only now does the backend go on
				if rest, err := io.ReadAll(events); err != nil || string(rest) != "\ndata: [DONE]\n\n" {
					t.Errorf("%v %q", err, rest)
				}
				s.backend.taken()
			})

			t.Run("a dead router means an error, not an unrouted request", func(t *testing.T) {
				s.stopRouter()
				for _, path := range []string{"/v1/chat/completions", "/v1/embeddings"} {
					if status, _, _ := s.send("POST", path, chat("hello")); status < 500 {
						t.Errorf("%s: status %d", path, status)
					}
				}
				if got := s.backend.taken(); len(got) > 0 {
					t.Errorf("the backend got %v", got)
				}
			})
		})
	}
}

// TestEnvoyRemovesOwnedHeadersByItself looks behind Envoy without the router, which would remove them as well.
func TestEnvoyRemovesOwnedHeadersByItself(t *testing.T) {
	s := startStack(t, envoy.PerModelCluster, func(bootstrap []byte) []byte {
		var tree yaml.Node
		if err := yaml.Unmarshal(bootstrap, &tree); err != nil {
			t.Fatal(err)
		}
		if !dropFirst(&tree, "http_filters") {
			t.Fatal("the bootstrap has no http_filters")
		}
		edited, err := yaml.Marshal(&tree)
		if err != nil {
			t.Fatal(err)
		}
		return edited
	})
	status, _, _ := s.send("POST", "/v1/chat/completions", "{}", "X-VSR-Destination-Endpoint", "127.0.0.1:1", "x-vsr-x", "1", "x-selected-model", "strong", "x-vsrx", "kept")
	got := s.backend.taken() // not the vault, which serves `strong`
	if status != 200 || len(got) != 1 {
		t.Fatalf("status %d, the backend got %v", status, got)
	}
	for name := range got[0].header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, envoy.OwnedPrefix) || lower == envoy.SelectedModelHeader {
			t.Errorf("a client's %s reached the backend", name)
		}
	}
	if got[0].header.Get("x-vsrx") != "kept" {
		t.Error("a header that is the client's own was removed")
	}
}

// dropFirst removes the first item of the list under key, wherever it is in the tree.
func dropFirst(node *yaml.Node, key string) bool {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 1 && node.Content[i-1].Value == key {
			child.Content = child.Content[1:]
			return true
		}
		if dropFirst(child, key) {
			return true
		}
	}
	return false
}

func TestUnusableOptionsAreRefused(t *testing.T) {
	for _, c := range []struct {
		options envoy.Options
		want    string
	}{
		{envoy.Options{Layout: "mesh", ListenAddress: "127.0.0.1"}, "valid: original-dst, cluster"},
		{envoy.Options{Layout: envoy.PerModelCluster, ListenAddress: "127.0.0.1"}, "preferred_endpoints"},
		{envoy.Options{Layout: envoy.OriginalDst, ListenAddress: "localhost"}, "--listen-address localhost"},
	} {
		if _, err := envoy.Bootstrap(&config.Config{}, c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want an error with %s", c.options, err, c.want)
		}
	}
}
