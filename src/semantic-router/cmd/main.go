// Command semantic-router is the external processor that routes OpenAI chat requests behind Envoy.
//
// main.go owns flags, start order and shutdown, nothing else: configuration → metrics and health → models → gRPC.
// Start order and flags: the router's specification; exit code 0 after SIGTERM, 1 if it could not start or serve.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/endpoint"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/envoy"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/extproc"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/health"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/metrics"
)

// version is set by -ldflags "-X main.version=…".
var version = "dev"

// drainTimeout is how long running requests may take to end after SIGTERM. It is below Kubernetes' default grace
// period of 30 s, so that the process ends by itself.
const drainTimeout = 25 * time.Second

type settings struct {
	configPath                 string
	port, apiPort, metricsPort int
	listenAddress              string
	endpoints                  []string
	allowUnsupported           bool
	checkConfig                bool
	printEnvoy                 bool
	envoyPort, envoyAdminPort  int
	layout, routerHost         string
	version                    bool
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func parseArguments(arguments []string, stdout io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("semantic-router", flag.ContinueOnError)
	flags.StringVar(&s.configPath, "config", cmp.Or(os.Getenv("CONFIG_FILE"), "config/config.yaml"), "configuration `file`; the default can be set by CONFIG_FILE")
	flags.IntVar(&s.port, "port", 50051, "port of the gRPC external processor; 0 takes a free one")
	flags.IntVar(&s.apiPort, "api-port", 8080, "port of /health, /ready and /v1/models; 0 takes a free one")
	flags.IntVar(&s.metricsPort, "metrics-port", 9190, "port of /metrics; 0 takes a free one")
	flags.StringVar(&s.listenAddress, "listen-address", "127.0.0.1", "IP `address` of every listener, Envoy's and its admin's too with --print-envoy")
	flags.Func("endpoint", "`NAME=HOST:PORT` gives an endpoint of the configuration another address; repeatable", func(value string) error {
		s.endpoints = append(s.endpoints, value)
		return nil
	})
	flags.BoolVar(&s.allowUnsupported, "allow-unsupported", false, "start although the configuration enables features that this router cannot run; requests go without them")
	flags.BoolVar(&s.checkConfig, "check-config", false, "print all findings about the configuration and exit: 0 if it can be used, else 1")
	flags.BoolVar(&s.printEnvoy, "print-envoy", false, "print the Envoy bootstrap for the configuration and exit")
	flags.IntVar(&s.envoyPort, "envoy-port", 8801, "with --print-envoy: port for clients")
	flags.IntVar(&s.envoyAdminPort, "envoy-admin-port", 19000, "with --print-envoy: port of the admin interface")
	flags.StringVar(&s.routerHost, "router-host", "127.0.0.1", "with --print-envoy: `HOST` at which Envoy finds this router, an address or a name")
	flags.StringVar(&s.layout, "layout", string(envoy.OriginalDst), "with --print-envoy: how Envoy finds backends, original-dst or cluster")
	flags.BoolVar(&s.version, "version", false, "print the version and exit")
	flags.SetOutput(io.Discard) // main prints errors, and --help is output that was asked for
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stdout, "usage: semantic-router [flags]")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return s, err
	} else if err != nil {
		return s, fmt.Errorf("%w; see --help", err)
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument `%s`; every setting is a flag, see --help", flags.Arg(0))
	}
	return s, nil
}

func run(arguments []string, stdout io.Writer) error {
	s, err := parseArguments(arguments, stdout)
	if err != nil {
		return err
	}
	if s.version {
		_, err := fmt.Fprintln(stdout, "semantic-router", version)
		return err
	}
	logger, err := newLogger(os.Getenv("SR_LOG_LEVEL"), os.Getenv("SR_LOG_ENCODING"), os.Stderr)
	if err != nil {
		return err
	}
	slog.SetDefault(logger)

	cfg, findings, err := config.Load(s.configPath, config.Options{AllowUnsupported: s.allowUnsupported})
	if err != nil {
		return err
	}
	unusable := findings.Err()
	if s.checkConfig {
		for _, finding := range findings {
			fmt.Fprintln(stdout, finding)
		}
		if unusable != nil {
			return fmt.Errorf("the configuration %s cannot be used; the findings say why", s.configPath)
		}
		return nil
	}
	if unusable != nil {
		return fmt.Errorf("the configuration %s cannot be used:\n%w", s.configPath, unusable)
	}
	for _, assignment := range s.endpoints {
		if err := endpoint.Override(cfg.Endpoints, assignment); err != nil {
			return fmt.Errorf("--endpoint %w", err)
		}
	}
	if s.printEnvoy {
		bootstrap, err := envoy.Bootstrap(cfg, envoy.Options{
			Layout: envoy.Layout(s.layout), ListenAddress: s.listenAddress,
			Port: s.envoyPort, AdminPort: s.envoyAdminPort, RouterHost: s.routerHost, RouterPort: s.port,
		})
		if err == nil {
			_, err = stdout.Write(bootstrap)
		}
		return err
	}
	for _, finding := range findings {
		slog.Warn("config_finding", "finding", finding.String())
	}
	return serve(s, cfg)
}

// serve runs until SIGTERM or SIGINT, or until a listener fails. A second signal ends the process at once.
func serve(s settings, cfg *config.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	failed := make(chan error, 3)

	state, counters := &health.State{}, metrics.New(cfg)
	api, err := serveHTTP("api", s.listenAddress, s.apiPort, health.Handler(state, func() []byte { return extproc.ModelList(cfg) }), failed)
	if err != nil {
		return err
	}
	defer api.Close()
	if cfg.Observability.Metrics.Enabled {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", counters.Handler())
		metricsServer, err := serveHTTP("metrics", s.listenAddress, s.metricsPort, mux, failed)
		if err != nil {
			return err
		}
		defer metricsServer.Close()
	}

	embeddings, err := loadEmbeddings(cfg)
	if err != nil {
		return err
	}
	table := endpoint.NewTable(ctx, cfg.Endpoints, endpoint.DNS)
	go table.Run(ctx)

	server := extproc.NewServer(cfg, embeddings, table, counters)
	listener, err := listen("ext_proc", s.listenAddress, s.port)
	if err != nil {
		return err
	}
	go func() { failed <- server.Serve(listener) }()
	state.Ready()
	slog.Info("ready", "version", version, "config", s.configPath)

	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stop()
	state.Draining()
	slog.Info("draining", "timeout_seconds", drainTimeout.Seconds())
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	server.Drain(drain)
	slog.Info("stopped")
	return nil
}

// loadEmbeddings loads the model only if a rule needs it.
func loadEmbeddings(cfg *config.Config) (*classify.EmbeddingRules, error) {
	if len(cfg.EmbeddingRules) == 0 {
		return classify.NewEmbeddingRules(nil, nil)
	}
	start := time.Now()
	embedder, err := classify.LoadCandle(cfg.BertModel)
	if err != nil {
		return nil, err
	}
	rules, err := classify.NewEmbeddingRules(cfg.EmbeddingRules, embedder)
	slog.Info("model_loaded", "model", cfg.BertModel.ModelID, "latency_ms", time.Since(start).Milliseconds())
	return rules, err
}

func listen(name, address string, port int) (net.Listener, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("open the %s port: %w", name, err)
	}
	slog.Info("listening", "server", name, "address", listener.Addr().String())
	return listener, nil
}

func serveHTTP(name, address string, port int, handler http.Handler, failed chan<- error) (*http.Server, error) {
	listener, err := listen(name, address, port)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
	return server, nil
}

// newLogger writes JSON lines, or text with SR_LOG_ENCODING=console.
func newLogger(level, encoding string, out io.Writer) (*slog.Logger, error) {
	options := &slog.HandlerOptions{}
	if level != "" {
		var parsed slog.Level
		if err := parsed.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("SR_LOG_LEVEL is `%s`; valid: debug, info, warn, error", level)
		}
		options.Level = parsed
	}
	switch strings.ToLower(encoding) {
	case "", "json":
		return slog.New(slog.NewJSONHandler(out, options)), nil
	case "console":
		return slog.New(slog.NewTextHandler(out, options)), nil
	}
	return nil, fmt.Errorf("SR_LOG_ENCODING is `%s`; valid: json, console", encoding)
}
