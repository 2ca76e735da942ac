package extproc

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/envoy"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/metrics"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/openai"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/routing"
)

// maxModelNameBytes bounds what a client can make the router copy into headers and logs.
const maxModelNameBytes = 256

// exchange is one HTTP request and its answer. It belongs to one stream, hence to one goroutine.
type exchange struct {
	*Server
	requestID string
	isChat    bool

	// Known once the request is routed.
	match    *routing.Match
	model    routing.Model
	auto     bool
	routedAt time.Time

	// Known once the answer begins.
	succeeded bool
	finished  bool
	stream    *eventStream // nil for an answer in one piece
	sawByte   bool
}

// handle answers one message of Envoy with the matching kind of response.
func (x *exchange) handle(message *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	switch phase := message.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		return x.requestHeaders(phase.RequestHeaders)
	case *extprocv3.ProcessingRequest_RequestBody:
		return x.requestBody(phase.RequestBody.GetBody())
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return x.responseHeaders(phase.ResponseHeaders)
	case *extprocv3.ProcessingRequest_ResponseBody:
		return x.responseBody(phase.ResponseBody)
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}}
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}}
	default: // a kind that this protocol version does not know
		return requestBodyReply(unchanged())
	}
}

func (x *exchange) requestHeaders(headers *extprocv3.HttpHeaders) *extprocv3.ProcessingResponse {
	x.requestID = headerNamed(headers, "x-request-id")
	method, requestPath := headerNamed(headers, ":method"), cleanPath(headerNamed(headers, ":path"))

	// Before anything else: a client's own x-vsr-destination-endpoint would make Envoy an open proxy.
	removed := &extprocv3.HeaderMutation{}
	for _, header := range headers.GetHeaders().GetHeaders() {
		name := strings.ToLower(header.GetKey())
		if strings.HasPrefix(name, envoy.OwnedPrefix) || name == envoy.SelectedModelHeader {
			removed.RemoveHeaders = append(removed.RemoveHeaders, header.GetKey())
		}
	}
	if method == http.MethodGet && (requestPath == "/v1/models" || strings.HasPrefix(requestPath, "/v1/models/")) {
		x.finished = true
		return answer(http.StatusOK, ModelList(x.cfg))
	}
	x.isChat = method == http.MethodPost && requestPath == "/v1/chat/completions"
	if !x.isChat {
		response := requestHeadersReply(&extprocv3.CommonResponse{HeaderMutation: removed})
		response.ModeOverride = onlyHeaders()
		return response
	}
	if headers.GetEndOfStream() {
		return x.badRequest("the request has no body")
	}
	// An answer that the backend compressed could not be read for its usage.
	removed.RemoveHeaders = append(removed.RemoveHeaders, "accept-encoding")
	return requestHeadersReply(&extprocv3.CommonResponse{HeaderMutation: removed})
}

// cleanPath drops the query and brings a path into the one spelling that is compared.
func cleanPath(raw string) string {
	parsed, err := url.ParseRequestURI(raw)
	if err != nil {
		return raw
	}
	return path.Clean(parsed.Path)
}

// ModelList is the answer to GET /v1/models: the automatic name, and the configured ones if the file says so.
func ModelList(cfg *config.Config) []byte {
	ids := []string{cfg.AutoModelName}
	if cfg.ListConfiguredModels {
		ids = append(ids, cfg.ModelNames()...)
	}
	return openai.ModelList(ids, time.Now().Unix())
}

func (x *exchange) requestBody(body []byte) *extprocv3.ProcessingResponse {
	if !x.isChat {
		return requestBodyReply(unchanged())
	}
	start := time.Now()
	request, err := openai.ParseChatRequest(body)
	if err != nil {
		return x.badRequest(err.Error())
	}
	requested := request.Model
	if len(requested) > maxModelNameBytes || !config.IsHeaderValue(requested) {
		return x.badRequest(fmt.Sprintf("`model` is longer than %d bytes, or has control characters or blanks at an end", maxModelNameBytes))
	}
	x.match = routing.Decide(x.cfg, x.signals(request.RoutingText()))

	resolved := func(e config.Endpoint) bool { _, ok := x.endpoints.Address(e.Name); return ok }
	reachable := func(base string) bool { _, ok := routing.PickEndpoint(x.cfg, base, resolved); return ok }
	reason := metrics.ModelSpecified
	x.model = routing.Model{Sent: requested, Base: x.cfg.BaseModel(requested)}
	if x.auto = x.cfg.IsAuto(requested); x.auto {
		reason = metrics.AutoRouting
		model, ok := routing.PickModel(x.cfg, x.match, reachable)
		if !ok {
			return x.unavailable(metrics.NoModel, "no decision matches this request and no default_model is configured")
		}
		x.model = model
	}

	mutation := &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{setHeader(envoy.SelectedModelHeader, x.model.Sent)}}
	model, isConfigured := x.cfg.Models[x.model.Base]
	endpointName := ""
	if endpoint, ok := routing.PickEndpoint(x.cfg, x.model.Base, resolved); ok {
		address, _ := x.endpoints.Address(endpoint.Name)
		endpointName = endpoint.Name
		mutation.SetHeaders = append(mutation.SetHeaders, setHeader(envoy.DestinationHeader, address.String()))
	} else if len(model.PreferredEndpoints) > 0 {
		return x.unavailable(metrics.NoEndpoint, fmt.Sprintf("no endpoint of model %s resolves to an address", x.model.Base))
	}
	if key := model.AccessKey.Reveal(); key != "" {
		mutation.SetHeaders = append(mutation.SetHeaders, setHeader("authorization", "Bearer "+key))
	}
	common := &extprocv3.CommonResponse{HeaderMutation: mutation, ClearRouteCache: x.cfg.ClearRouteCache}
	if x.auto {
		edited, err := x.edit(request)
		if err != nil {
			x.metrics.Failed(x.model.Sent, metrics.SerializationError)
			slog.Error("request_not_encoded", "request_id", x.requestID, "error", err)
			return x.fail(http.StatusInternalServerError, "server_error", "the routed request could not be encoded")
		}
		common.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: edited}}
		// Envoy answers 500 to a body that differs from its content-length; without one it sends the body chunked.
		mutation.RemoveHeaders = append(mutation.RemoveHeaders, "content-length")
	}

	x.routedAt = time.Now()
	x.metrics.Routed(requested, x.model.Sent, reason, x.routedAt.Sub(start))
	decision, matched, confidence := x.decisionFacts()
	slog.Info("routing_decision", "request_id", x.requestID, "reason", reason, "requested_model", requested,
		"selected_model", x.model.Sent, "model_configured", isConfigured, "decision", decision, "matched", matched,
		"confidence", confidence, "endpoint", endpointName, "latency_ms", x.routedAt.Sub(start).Milliseconds())
	return requestBodyReply(common)
}

// edit makes the body that the backend gets. Later slices add reasoning, system prompt and tools here, in this order.
func (x *exchange) edit(request *openai.ChatRequest) ([]byte, error) {
	if err := request.SetModel(x.model.Sent); err != nil {
		return nil, err
	}
	return request.Encode()
}

// signals evaluates every rule against text. A model that fails costs the request its embedding signals, not its
// answer: they steer, they do not guard.
func (x *exchange) signals(text string) routing.Signals {
	signals := routing.Signals{}
	start := time.Now()
	x.keywords.AddMatches(text, signals)
	x.metrics.Classified("keyword", time.Since(start))

	start = time.Now()
	names, err := x.embeddings.Match(text)
	if err != nil {
		x.metrics.Failed("", metrics.ClassificationFailed)
		slog.Warn("classification_failed", "request_id", x.requestID, "classifier", "embedding", "error", err)
	}
	x.metrics.Classified("embedding", time.Since(start))
	for _, name := range names {
		signals.Add(config.ConditionEmbedding, name)
	}
	return signals
}

func (x *exchange) decisionFacts() (name string, matched []string, confidence float64) {
	if x.match == nil {
		return "", nil, 0
	}
	for _, signal := range x.match.Matched {
		matched = append(matched, signal.String())
	}
	return x.match.Decision.Name, matched, x.match.Confidence
}

func (x *exchange) responseHeaders(headers *extprocv3.HttpHeaders) *extprocv3.ProcessingResponse {
	if !x.isRouted() {
		return responseHeadersReply(unchanged())
	}
	x.finished = headers.GetEndOfStream()
	status, _ := strconv.Atoi(headerNamed(headers, ":status"))
	switch {
	case status >= 500:
		x.metrics.Failed(x.model.Sent, metrics.Upstream5xx)
	case status >= 400:
		x.metrics.Failed(x.model.Sent, metrics.Upstream4xx)
	}
	if x.succeeded = status >= 200 && status < 300; !x.succeeded {
		return responseHeadersReply(unchanged())
	}

	// The category stays unset: no signal of this router yields one yet.
	mutation := &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
		setHeader("x-vsr-selected-model", x.model.Sent),
		setHeader("x-vsr-injected-system-prompt", "false"),
	}}
	if x.match != nil {
		mutation.SetHeaders = append(mutation.SetHeaders, setHeader("x-vsr-selected-decision", x.match.Decision.Name))
		if x.auto {
			mutation.SetHeaders = append(mutation.SetHeaders, setHeader("x-vsr-selected-reasoning", "off"))
		}
	}
	response := responseHeadersReply(&extprocv3.CommonResponse{HeaderMutation: mutation})
	if strings.HasPrefix(strings.ToLower(headerNamed(headers, "content-type")), "text/event-stream") {
		x.stream = &eventStream{}
		response.ModeOverride = streamedAnswer()
	} else {
		x.firstByte()
	}
	return response
}

func (x *exchange) responseBody(body *extprocv3.HttpBody) *extprocv3.ProcessingResponse {
	if !x.isRouted() || x.finished {
		return responseBodyReply(unchanged())
	}
	// A body in one piece is whole even without the end-of-stream mark, which then is on the trailers.
	x.finished = body.GetEndOfStream() || x.stream == nil
	if !x.succeeded {
		return responseBodyReply(unchanged())
	}
	x.firstByte()
	var usage *openai.Usage
	if x.stream != nil {
		x.stream.write(body.GetBody())
		usage = x.stream.usage
	} else {
		usage = openai.ParseUsage(body.GetBody())
	}
	if x.finished {
		latency := time.Since(x.routedAt)
		x.metrics.Completed(x.model.Sent, latency, usage)
		if usage != nil {
			slog.Info("llm_usage", "request_id", x.requestID, "model", x.model.Sent, "prompt_tokens", usage.PromptTokens,
				"completion_tokens", usage.CompletionTokens, "latency_ms", latency.Milliseconds())
		}
	}
	return responseBodyReply(unchanged())
}

// firstByte counts the time to the first byte once.
func (x *exchange) firstByte() {
	if !x.sawByte {
		x.sawByte = true
		x.metrics.FirstByte(x.model.Sent, time.Since(x.routedAt))
	}
}

func (x *exchange) isRouted() bool { return !x.routedAt.IsZero() }

// abandoned counts a routed request whose answer nobody waited for.
func (x *exchange) abandoned(reason metrics.ErrorReason) {
	if x.isRouted() && !x.finished {
		x.metrics.Failed(x.model.Sent, reason)
	}
}

func (x *exchange) badRequest(message string) *extprocv3.ProcessingResponse {
	x.metrics.Failed("", metrics.ParseError)
	return x.fail(http.StatusBadRequest, "invalid_request_error", message)
}

func (x *exchange) unavailable(reason metrics.ErrorReason, message string) *extprocv3.ProcessingResponse {
	x.metrics.Failed(x.model.Base, reason)
	return x.fail(http.StatusServiceUnavailable, "service_unavailable", message)
}

func (x *exchange) fail(status int, kind, message string) *extprocv3.ProcessingResponse {
	x.finished = true
	slog.Info("request_refused", "request_id", x.requestID, "status", status, "reason", message)
	return answer(status, openai.ErrorBody(status, kind, message))
}
