package extproc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify/classifytest"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/endpoint"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/extproc"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/metrics"
)

const configuration = `
bert_model: { model_id: unused }
vllm_endpoints:
  - { name: one, address: 127.0.0.1, port: 8000, weight: 1 }
  - { name: two, address: 127.0.0.1, port: 8001, weight: 2 }
  - { name: lost, address: lost.example, port: 8002 }
model_config:
  model-a: { preferred_endpoints: [one], access_key: sk-hidden }
  model-b: { preferred_endpoints: [one, two], pricing: { prompt_per_1m: 1000000 }, loras: [{ name: b-legal }] }
  model-lost: { preferred_endpoints: [lost] }
  gateway-only: {}
keyword_rules:
  - { name: urgent, operator: OR, keywords: [urgent, 紧急] }
  - { name: cpp, operator: OR, keywords: [c++] }
  - { name: lost, operator: OR, keywords: [lost] }
  - { name: choice, operator: OR, keywords: [choice] }
embedding_rules:
  - { name: invoices, threshold: 0.8, candidates: [refund a payment] }
decisions:
  - name: urgent_first
    priority: 100
    rules: { operator: OR, conditions: [{ type: keyword, name: urgent }] }
    modelRefs: [{ model: model-a, use_reasoning: false }]
  - name: code
    priority: 50
    rules: { operator: OR, conditions: [{ type: keyword, name: cpp }] }
    modelRefs: [{ model: model-b, lora_name: b-legal, use_reasoning: false }]
  - name: billing
    priority: 50
    rules: { operator: OR, conditions: [{ type: embedding, name: invoices }] }
    modelRefs: [{ model: gateway-only, use_reasoning: false }]
  - name: nowhere
    rules: { operator: OR, conditions: [{ type: keyword, name: lost }] }
    modelRefs: [{ model: model-lost, use_reasoning: false }]
  - name: choice
    rules: { operator: OR, conditions: [{ type: keyword, name: choice }] }
    modelRefs: [{ model: model-lost, use_reasoning: false }, { model: model-a, use_reasoning: false }]
default_model: model-b
`

// router is a running server with a connection that plays Envoy.
type router struct {
	t       *testing.T
	server  *extproc.Server
	metrics *metrics.Metrics
	client  extprocv3.ExternalProcessorClient
	served  chan error
}

func start(t *testing.T, extra string, embedder classify.Embedder) *router {
	t.Helper()
	cfg, findings := config.Parse("test.yaml", []byte(configuration+extra), config.Options{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	known, err := classify.NewEmbeddingRules(cfg.EmbeddingRules, classifytest.Embedder{})
	if embedder != nil {
		known, err = classify.NewEmbeddingRules(cfg.EmbeddingRules, embedder)
	}
	if err != nil {
		t.Fatal(err)
	}
	table := endpoint.NewTable(t.Context(), cfg.Endpoints, func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") })
	r := &router{t: t, metrics: metrics.New(cfg), served: make(chan error, 1)}
	r.server = extproc.NewServer(cfg, known, table, r.metrics)
	pipe := bufconn.Listen(1 << 20)
	go func() { r.served <- r.server.Serve(pipe) }()
	connection, err := grpc.NewClient("passthrough:pipe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		connection.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.server.Drain(ctx)
	})
	r.client = extprocv3.NewExternalProcessorClient(connection)
	return r
}

// conversation is one stream.
type conversation struct {
	t      *testing.T
	stream extprocv3.ExternalProcessor_ProcessClient
}

func (r *router) open(ctx context.Context) *conversation {
	r.t.Helper()
	stream, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return &conversation{r.t, stream}
}

func (c *conversation) exchange(message *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	c.t.Helper()
	if err := c.stream.Send(message); err != nil {
		c.t.Fatal(err)
	}
	response, err := c.stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return response
}

func headers(end bool, pairs ...string) *extprocv3.HttpHeaders {
	h := &extprocv3.HttpHeaders{EndOfStream: end, Headers: &corev3.HeaderMap{}}
	for i := 0; i < len(pairs); i += 2 {
		h.Headers.Headers = append(h.Headers.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return h
}

func onRequestHeaders(h *extprocv3.HttpHeaders) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: h}}
}

func onRequestBody(body string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: true}}}
}

func onResponseHeaders(h *extprocv3.HttpHeaders) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: h}}
}

func onResponseBody(body string, end bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: end}}}
}

var chatHeaders = []string{":method", "POST", ":path", "/v1/chat/completions", "content-type", "application/json", "x-request-id", "id-1"}

func chat(model, text string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%s}]}`, model, quoted)
}

// ask sends headers and body of a chat request and returns the answer to the body.
func (c *conversation) ask(body string) *extprocv3.ProcessingResponse {
	c.t.Helper()
	c.exchange(onRequestHeaders(headers(false, chatHeaders...)))
	return c.exchange(onRequestBody(body))
}

// setHeaders are the headers that a mutation sets. It fails on one that Envoy would refuse or append.
func setHeaders(t *testing.T, mutation *extprocv3.HeaderMutation) map[string]string {
	t.Helper()
	set := map[string]string{}
	for _, option := range mutation.GetSetHeaders() {
		if option.Header.Value != "" || len(option.Header.RawValue) == 0 {
			t.Errorf("header %s has Value %q and RawValue %q; Envoy wants exactly one", option.Header.Key, option.Header.Value, option.Header.RawValue)
		}
		if option.AppendAction != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("header %s is not overwritten", option.Header.Key)
		}
		set[option.Header.Key] = string(option.Header.RawValue)
	}
	return set
}

// metric is the value of one line of /metrics, given by its name and labels; 0 if it is not there.
func (r *router) metric(series string) float64 {
	r.t.Helper()
	recorder := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(recorder.Body.String()) {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}

func (r *router) wantMetric(series string, want float64) {
	r.t.Helper()
	if got := r.metric(series); got != want {
		r.t.Errorf("%s is %v, want %v", series, got, want)
	}
}

func TestRequestsAreRouted(t *testing.T) {
	r := start(t, "", nil)
	for _, c := range []struct {
		name, model, text string
		sent, destination string
		authorization     string
		decision          string
	}{
		{"keyword", "auto", "an URGENT thing", "model-a", "127.0.0.1:8000", "Bearer sk-hidden", "urgent_first"},
		{"Chinese keyword", "auto", "这是紧急情况", "model-a", "127.0.0.1:8000", "Bearer sk-hidden", "urgent_first"},
		{"priority beats file order and other signals", "auto", "urgent c++ refund", "model-a", "127.0.0.1:8000", "Bearer sk-hidden", "urgent_first"},
		{"adapter on its base's endpoint", "auto", "why C++?", "b-legal", "127.0.0.1:8001", "", "code"},
		{"embedding, model without endpoint", "auto", "give me my money back, a refund", "gateway-only", "", "", "billing"},
		{"no decision: default, heavier endpoint", "auto", "hello", "model-b", "127.0.0.1:8001", "", ""},
		{"second model if the first is unreachable", "auto", "a choice", "model-a", "127.0.0.1:8000", "Bearer sk-hidden", "choice"},
		{"the other automatic name", "MoM", "urgent", "model-a", "127.0.0.1:8000", "Bearer sk-hidden", "urgent_first"},
		{"named model keeps its name", "model-b", "urgent", "model-b", "127.0.0.1:8001", "", "urgent_first"},
		{"named adapter", "b-legal", "hello", "b-legal", "127.0.0.1:8001", "", ""},
		{"unknown model goes on without an address", "gpt-x", "hello", "gpt-x", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := r.open(t.Context())
			response := call.ask(chat(c.model, c.text)).GetRequestBody().GetResponse()
			set := setHeaders(t, response.GetHeaderMutation())
			if set["x-selected-model"] != c.sent || set["x-vsr-destination-endpoint"] != c.destination || set["authorization"] != c.authorization {
				t.Errorf("headers are %v", set)
			}
			removed, body := response.GetHeaderMutation().GetRemoveHeaders(), string(response.GetBodyMutation().GetBody())
			if automatic := c.model == "auto" || c.model == "MoM"; automatic && (body != chat(c.sent, c.text) || !slices.Equal(removed, []string{"content-length"})) || !automatic && (body != "" || len(removed) > 0) {
				t.Errorf("body is %s, removed are %v", body, removed)
			}
			answered := setHeaders(t, call.exchange(onResponseHeaders(headers(false, ":status", "200"))).GetResponseHeaders().GetResponse().GetHeaderMutation())
			if answered["x-vsr-selected-model"] != c.sent || answered["x-vsr-selected-decision"] != c.decision {
				t.Errorf("response headers are %v", answered)
			}
		})
	}
	r.wantMetric(`llm_model_requests_total{model="model-a"}`, 5)
	r.wantMetric(`llm_model_requests_total{model="unknown"}`, 1)
	r.wantMetric(`llm_model_routing_modifications_total{source_model="auto",target_model="model-b"}`, 1)
	r.wantMetric(`llm_routing_reason_codes_total{model="b-legal",reason_code="model_specified"}`, 1)
	r.wantMetric(`llm_model_routing_latency_seconds_count`, 11)
	r.wantMetric(`llm_classifier_latency_seconds_count{classifier="embedding"}`, 11)
}

func TestUnknownFieldsReachTheBackendExactly(t *testing.T) {
	body := `{"seed":12345678901234567890,"model":"auto","top_k":5,"messages":[{"role":"user","content":"urgent","vendor":{"x":1.10}}],"guided_json":{"b":9007199254740993,"a":null},"chat_template_kwargs":{"k":true}}`
	response := start(t, "", nil).open(t.Context()).ask(body).GetRequestBody().GetResponse()
	if got, want := string(response.GetBodyMutation().GetBody()), strings.Replace(body, `"auto"`, `"model-a"`, 1); got != want {
		t.Errorf("body is\n%s\nwant\n%s", got, want)
	}
}

func TestClientCopiesOfOwnHeadersAreRemoved(t *testing.T) {
	r := start(t, "", nil)
	for _, target := range [][]string{{":method", "POST", ":path", "/v1/chat/completions"}, {":method", "POST", ":path", "/v1/embeddings"}} {
		sent := append(target, "X-VSR-Destination-Endpoint", "6.6.6.6:80", "x-vsr-anything", "x", "x-selected-model", "y", "x-vsrx", "kept", "x-request-id", "1")
		common := r.open(t.Context()).exchange(onRequestHeaders(headers(false, sent...))).GetRequestHeaders().GetResponse()
		removed := slices.DeleteFunc(common.GetHeaderMutation().GetRemoveHeaders(), func(name string) bool { return name == "accept-encoding" })
		if want := []string{"X-VSR-Destination-Endpoint", "x-vsr-anything", "x-selected-model"}; !slices.Equal(removed, want) {
			t.Errorf("%v: removed are %v, want %v", target, removed, want)
		}
	}
}

func TestBadRequestsAreAnswered400(t *testing.T) {
	r := start(t, "", nil)
	for i, body := range []string{"", "  ", "no json", `{"model":"auto"}`, `{"model":"auto","messages":[]}`, `{"messages":[{"role":"user","content":"x"}]}`,
		chat("a\nb", "x"), chat(strings.Repeat("m", 300), "x")} {
		answer := r.open(t.Context()).ask(body).GetImmediateResponse()
		var decoded struct {
			Error struct {
				Message, Type string
				Code          int
			}
		}
		if err := json.Unmarshal(answer.GetBody(), &decoded); err != nil || answer.GetStatus().GetCode() != 400 ||
			decoded.Error.Type != "invalid_request_error" || decoded.Error.Code != 400 || decoded.Error.Message == "" {
			t.Errorf("%.40q is answered %v %s", body, answer.GetStatus(), answer.GetBody())
		}
		if set := setHeaders(t, answer.GetHeaders()); set["content-type"] != "application/json" {
			t.Errorf("headers are %v", set)
		}
		r.wantMetric(`llm_request_errors_total{model="unknown",reason="parse_error"}`, float64(i+1))
	}
	if answer := r.open(t.Context()).exchange(onRequestHeaders(headers(true, chatHeaders...))).GetImmediateResponse(); answer.GetStatus().GetCode() != 400 {
		t.Errorf("a request without a body is answered %v", answer)
	}
}

func TestWhatCannotBeRoutedIsAnswered503(t *testing.T) {
	r := start(t, "", nil)
	for text, model := range map[string]string{"lost": "auto", "hello": "model-lost"} {
		if answer := r.open(t.Context()).ask(chat(model, text)).GetImmediateResponse(); answer.GetStatus().GetCode() != 503 || !strings.Contains(string(answer.GetBody()), "model-lost") {
			t.Errorf("%s is answered %v", text, answer)
		}
	}
	r.wantMetric(`llm_request_errors_total{model="model-lost",reason="no_endpoint"}`, 2)
}

func TestModelList(t *testing.T) {
	ids := func(extra, method, path string) string {
		answer := start(t, extra, nil).open(t.Context()).exchange(onRequestHeaders(headers(true, ":method", method, ":path", path))).GetImmediateResponse()
		if answer == nil {
			return "not answered"
		}
		var list struct{ Data []struct{ ID string } }
		if err := json.Unmarshal(answer.GetBody(), &list); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer.GetStatus().GetCode(), list.Data)
	}
	for _, c := range []struct{ extra, method, path, want string }{
		{"", "GET", "/v1/models", "OK [{MoM}]"},
		{"", "GET", "/v1/models?x=y", "OK [{MoM}]"},
		{"auto_model_name: pick\ninclude_config_models_in_list: true", "GET", "/v1/models", "OK [{pick} {gateway-only} {model-a} {model-b} {model-lost}]"},
		{"", "POST", "/v1/models", "not answered"},
		{"", "GET", "/v1/modelsx", "not answered"},
	} {
		if got := ids(c.extra, c.method, c.path); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.want)
		}
	}
}

func TestOtherRequestsPassAndAreNotBuffered(t *testing.T) {
	for _, target := range [][2]string{{"GET", "/v1/chat/completions"}, {"POST", "/v1/embeddings"}, {"GET", "/health"}} {
		call := start(t, "", nil).open(t.Context())
		response := call.exchange(onRequestHeaders(headers(false, ":method", target[0], ":path", target[1])))
		if response.GetRequestHeaders() == nil || response.GetModeOverride().GetRequestBodyMode() != filterv3.ProcessingMode_NONE || response.GetModeOverride().GetResponseHeaderMode() != filterv3.ProcessingMode_SKIP {
			t.Errorf("%v: %v", target, response)
		}
		if body := call.exchange(onRequestBody("not json")).GetRequestBody(); body == nil || body.GetResponse().GetBodyMutation() != nil {
			t.Errorf("%v: the body is not passed: %v", target, body)
		}
	}
}

func TestSpellingsOfTheChatPath(t *testing.T) {
	r := start(t, "", nil)
	for _, path := range []string{"/v1/chat/completions?api-version=1", "//v1/chat/completions", "/v1/./chat/completions", "/v1/chat/%63ompletions", "/v1/chat/completions/"} {
		call := r.open(t.Context())
		call.exchange(onRequestHeaders(headers(false, ":method", "POST", ":path", path)))
		if answer := call.exchange(onRequestBody("no json")).GetImmediateResponse(); answer.GetStatus().GetCode() != 400 {
			t.Errorf("%s is not treated as a chat request", path)
		}
	}
}

func TestEveryKindOfMessageIsAnsweredInKind(t *testing.T) {
	call := start(t, "", nil).open(t.Context())
	if call.exchange(onRequestHeaders(headers(false, chatHeaders...))).GetRequestHeaders() == nil ||
		call.exchange(onRequestBody(chat("auto", "x"))).GetRequestBody() == nil ||
		call.exchange(onResponseHeaders(headers(false, ":status", "200"))).GetResponseHeaders() == nil ||
		call.exchange(onResponseBody("{}", true)).GetResponseBody() == nil {
		t.Error("one of the four phases is answered by another kind")
	}
	if call.exchange(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{}}).GetRequestTrailers() == nil ||
		call.exchange(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{}}).GetResponseTrailers() == nil {
		t.Error("trailers are answered by another kind")
	}
	if unknown := call.exchange(&extprocv3.ProcessingRequest{}).GetRequestBody(); unknown == nil || unknown.GetResponse().GetStatus() != extprocv3.CommonResponse_CONTINUE {
		t.Errorf("an unknown kind is answered %v", unknown)
	}
	if err := call.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := call.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestOldEnvoysFillValue(t *testing.T) {
	h := &extprocv3.HttpHeaders{EndOfStream: true, Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":method", Value: "GET"}, {Key: ":path", Value: "/v1/models"}}}}
	if start(t, "", nil).open(t.Context()).exchange(onRequestHeaders(h)).GetImmediateResponse() == nil {
		t.Error("headers in Value are not read")
	}
}

func TestAnswersAreCounted(t *testing.T) {
	r := start(t, "", nil)
	answer := func(responseHeaders *extprocv3.HttpHeaders, pieces ...string) *extprocv3.ProcessingResponse {
		call := r.open(t.Context())
		call.ask(chat("auto", "hello")) // model-b
		response := call.exchange(onResponseHeaders(responseHeaders))
		for i, piece := range pieces {
			call.exchange(onResponseBody(piece, i == len(pieces)-1))
		}
		return response
	}
	for _, c := range []struct{ status, reason string }{{"404", "upstream_4xx"}, {"503", "upstream_5xx"}} {
		response := answer(headers(false, ":status", c.status), `{"usage":{"prompt_tokens":9}}`)
		if set := response.GetResponseHeaders().GetResponse().GetHeaderMutation(); set != nil {
			t.Errorf("status %s gets headers %v", c.status, set)
		}
		r.wantMetric(fmt.Sprintf(`llm_request_errors_total{model="model-b",reason=%q}`, c.reason), 1)
	}
	r.wantMetric(`llm_model_tokens_total{model="model-b"}`, 0)
	r.wantMetric(`llm_model_ttft_seconds_count{model="model-b"}`, 0)

	answer(headers(false, ":status", "200", "content-type", "application/json"), `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	r.wantMetric(`llm_model_ttft_seconds_count{model="model-b"}`, 1)
	r.wantMetric(`llm_model_tokens_total{model="model-b"}`, 7)

	response := answer(headers(false, ":status", "200", "content-type", "text/event-stream; charset=utf-8"),
		"data: {\"choices\":[]}\n\nda", "ta: {\"usage\":{\"prompt_tokens\":30,", "\"completion_tokens\":40}}\n\n", "data: [DONE]\n\n")
	if mode := response.GetModeOverride(); mode.GetResponseBodyMode() != filterv3.ProcessingMode_STREAMED {
		t.Errorf("the mode for an event stream is %v", mode)
	}
	r.wantMetric(`llm_model_ttft_seconds_count{model="model-b"}`, 2)
	r.wantMetric(`llm_model_tpot_seconds_count{model="model-b"}`, 2)
	r.wantMetric(`llm_model_completion_latency_seconds_count{model="model-b"}`, 2)
	r.wantMetric(`llm_model_prompt_tokens_total{model="model-b"}`, 33)
	r.wantMetric(`llm_model_completion_tokens_total{model="model-b"}`, 44)
	r.wantMetric(`llm_model_cost_total{currency="USD",model="model-b"}`, 33)
}

func TestAbandonedRequestsAreCounted(t *testing.T) {
	r := start(t, "", nil)
	abandon := func(answered bool) {
		ctx, cancel := context.WithCancel(t.Context())
		call := r.open(ctx)
		call.ask(chat("auto", "hello"))
		if answered {
			call.exchange(onResponseHeaders(headers(true, ":status", "200")))
		}
		cancel()
	}
	abandon(true)
	abandon(false)
	const series = `llm_request_errors_total{model="model-b",reason="cancellation"}`
	for deadline := time.Now().Add(10 * time.Second); r.metric(series) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	r.wantMetric(series, 1)
}

func TestLargeBodiesManyMessagesAndManyStreams(t *testing.T) {
	r := start(t, "", nil)
	for _, size := range []int{1 << 20, 6 << 20} { // gRPC's default limit is 4 MiB
		body := chat("auto", strings.Repeat("a ", size/2)+"urgent")
		if got := r.open(t.Context()).ask(body).GetRequestBody().GetResponse(); len(got.GetBodyMutation().GetBody()) != len(body)+len("model-a")-len("auto") {
			t.Errorf("a body of %d bytes is not routed", size)
		}
	}
	call := r.open(t.Context())
	for range 500 {
		call.ask(chat("auto", "urgent"))
	}
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			text, want := "urgent", "model-a"
			if i%2 == 0 {
				text, want = "c++", "b-legal"
			}
			stream, err := r.client.Process(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for _, message := range []*extprocv3.ProcessingRequest{onRequestHeaders(headers(false, chatHeaders...)), onRequestBody(chat("auto", text))} {
				if err := stream.Send(message); err != nil {
					t.Error(err)
				}
				response, err := stream.Recv()
				if body := response.GetRequestBody(); err != nil || body != nil && setHeaders(t, body.GetResponse().GetHeaderMutation())["x-selected-model"] != want {
					t.Errorf("%v, %v, want %s", err, response, want)
				}
			}
		})
	}
	wait.Wait()
}

// flaky embeds candidates and then does what the test says.
type flaky struct {
	classifytest.Embedder
	broken func() ([]float32, error)
}

func (f *flaky) Embed(text string) ([]float32, error) {
	if f.broken != nil {
		return f.broken()
	}
	return f.Embedder.Embed(text)
}

func TestFailingModelCostsOnlyItsSignals(t *testing.T) {
	embedder := &flaky{}
	r := start(t, "", embedder)
	embedder.broken = func() ([]float32, error) { return nil, errors.New("out of order") }
	for text, want := range map[string]string{"refund": "model-b", "urgent refund": "model-a"} {
		response := r.open(t.Context()).ask(chat("auto", text)).GetRequestBody().GetResponse()
		if got := setHeaders(t, response.GetHeaderMutation())["x-selected-model"]; got != want {
			t.Errorf("%s goes to %s, want %s", text, got, want)
		}
	}
	r.wantMetric(`llm_request_errors_total{model="unknown",reason="classification_failed"}`, 2)
}

func TestPanicEndsOneStreamOnly(t *testing.T) {
	embedder := &flaky{}
	r := start(t, "", embedder)
	embedder.broken = func() ([]float32, error) {
		embedder.broken = nil
		panic("a bug")
	}
	call := r.open(t.Context())
	call.exchange(onRequestHeaders(headers(false, chatHeaders...)))
	if err := call.stream.Send(onRequestBody(chat("auto", "hello"))); err != nil {
		t.Fatal(err)
	}
	if _, err := call.stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("the stream ends with %v", err)
	}
	if r.open(t.Context()).ask(chat("auto", "hello")).GetRequestBody() == nil {
		t.Error("the next request is not routed")
	}
}

func TestDrainWaitsForRunningRequests(t *testing.T) {
	r := start(t, "", nil)
	call := r.open(t.Context())
	call.ask(chat("auto", "hello"))
	drained := make(chan struct{})
	go func() {
		r.server.Drain(t.Context())
		close(drained)
	}()
	// New streams are refused once draining has begun.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		stream, err := r.client.Process(ctx)
		if err == nil {
			_ = stream.Send(onRequestHeaders(headers(true, ":method", "GET", ":path", "/v1/models")))
			_, err = stream.Recv()
		}
		cancel()
		if err != nil {
			break
		}
	}
	select {
	case <-drained:
		t.Fatal("drained although a request is running")
	default:
	}
	if call.exchange(onResponseHeaders(headers(true, ":status", "200"))).GetResponseHeaders() == nil {
		t.Error("the running request is not answered")
	}
	if err := call.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-drained
	if err := <-r.served; err != nil {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestLogsHoldNeitherTextNorKeys(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	defer slog.SetDefault(before)
	r := start(t, "", nil)
	call := r.open(t.Context())
	call.ask(chat("auto", "urgent: my PRIVATE words"))
	call.exchange(onResponseHeaders(headers(false, ":status", "200")))
	call.exchange(onResponseBody(`{"choices":[{"message":{"content":"PRIVATE"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, true))
	r.open(t.Context()).ask(`{"model":"auto","messages":"PRIVATE"}`)
	if text := log.String(); strings.Contains(text, "PRIVATE") || strings.Contains(text, "sk-hidden") ||
		!strings.Contains(text, `"decision":"urgent_first"`) || !strings.Contains(text, `"matched":["keyword:urgent"]`) || !strings.Contains(text, "llm_usage") || !strings.Contains(text, "request_refused") {
		t.Errorf("log:\n%s", text)
	}
}
