// Package metrics owns the names and labels of everything the router counts.
//
// Labels are bounded: a model is one of the configuration's or "unknown", a reason is one of the constants here; what
// a client sends never becomes a label. Names are upstream's, so that its Grafana board keeps working.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/openai"
)

// ErrorReason says why a request failed.
type ErrorReason string

const (
	ParseError           ErrorReason = "parse_error"
	Upstream4xx          ErrorReason = "upstream_4xx"
	Upstream5xx          ErrorReason = "upstream_5xx"
	Timeout              ErrorReason = "timeout"
	Cancellation         ErrorReason = "cancellation"
	ClassificationFailed ErrorReason = "classification_failed"
	SerializationError   ErrorReason = "serialization_error"
	NoModel              ErrorReason = "no_model"
	NoEndpoint           ErrorReason = "no_endpoint"
)

// RoutingReason says how a request came to its model.
type RoutingReason string

const (
	AutoRouting    RoutingReason = "auto_routing"
	ModelSpecified RoutingReason = "model_specified"
)

const unknownModel = "unknown"

// Metrics counts for one configuration. It may be used from any number of goroutines.
type Metrics struct {
	registry *prometheus.Registry
	models   map[string]config.Pricing // every label a model may have

	requests, errors, promptTokens, completionTokens, tokens, cost, modifications, reasons *prometheus.CounterVec
	completionLatency, ttft, tpot, classifierLatency                                       *prometheus.HistogramVec
	routingLatency                                                                         prometheus.Histogram
}

// New registers all metrics with a registry of their own.
func New(cfg *config.Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), models: map[string]config.Pricing{config.AutoModel: {}, cfg.AutoModelName: {}}}
	for name, model := range cfg.Models {
		m.models[name] = model.Pricing
		for _, lora := range model.LoRAs {
			m.models[lora.Name] = model.Pricing
		}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(vector)
		return vector
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		vector := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(vector)
		return vector
	}
	answers := prometheus.ExponentialBuckets(0.01, 2, 15) // 10 ms to 164 s
	steps := prometheus.ExponentialBuckets(0.0001, 2, 15) // 0.1 ms to 1.6 s
	m.requests = counter("llm_model_requests_total", "Requests sent to a model.", "model")
	m.errors = counter("llm_request_errors_total", "Requests that failed.", "model", "reason")
	m.promptTokens = counter("llm_model_prompt_tokens_total", "Prompt tokens that the backend reported.", "model")
	m.completionTokens = counter("llm_model_completion_tokens_total", "Completion tokens that the backend reported.", "model")
	m.tokens = counter("llm_model_tokens_total", "Prompt and completion tokens.", "model")
	m.cost = counter("llm_model_cost_total", "Cost by the configured prices.", "model", "currency")
	m.modifications = counter("llm_model_routing_modifications_total", "Requests whose model the router changed.", "source_model", "target_model")
	m.reasons = counter("llm_routing_reason_codes_total", "How requests came to their model.", "reason_code", "model")
	m.completionLatency = histogram("llm_model_completion_latency_seconds", "From the routed request to the end of its answer.", answers, "model")
	m.ttft = histogram("llm_model_ttft_seconds", "From the routed request to the first byte of its answer.", answers, "model")
	m.tpot = histogram("llm_model_tpot_seconds", "Time per completion token.", steps, "model")
	m.classifierLatency = histogram("llm_classifier_latency_seconds", "Evaluation of one kind of signal.", steps, "classifier")
	m.routingLatency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "llm_model_routing_latency_seconds", Help: "From the request's body to the routed request.", Buckets: steps})
	m.registry.MustRegister(m.routingLatency, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) label(model string) string {
	if _, ok := m.models[model]; ok {
		return model
	}
	return unknownModel
}

// Failed counts a request that failed; model is "" where none was read yet.
func (m *Metrics) Failed(model string, reason ErrorReason) {
	m.errors.WithLabelValues(m.label(model), string(reason)).Inc()
}

// Routed counts a request that goes to a backend.
func (m *Metrics) Routed(requested, sent string, reason RoutingReason, latency time.Duration) {
	m.requests.WithLabelValues(m.label(sent)).Inc()
	m.reasons.WithLabelValues(string(reason), m.label(sent)).Inc()
	if requested != sent {
		m.modifications.WithLabelValues(m.label(requested), m.label(sent)).Inc()
	}
	m.routingLatency.Observe(latency.Seconds())
}

// Classified records how long one kind of signal took.
func (m *Metrics) Classified(classifier string, latency time.Duration) {
	m.classifierLatency.WithLabelValues(classifier).Observe(latency.Seconds())
}

// FirstByte records the time to the first byte of an answer.
func (m *Metrics) FirstByte(model string, latency time.Duration) {
	m.ttft.WithLabelValues(m.label(model)).Observe(latency.Seconds())
}

// Completed records a whole answer; usage is nil where the backend reported none.
func (m *Metrics) Completed(model string, latency time.Duration, usage *openai.Usage) {
	label := m.label(model)
	m.completionLatency.WithLabelValues(label).Observe(latency.Seconds())
	if usage == nil || usage.PromptTokens < 0 || usage.CompletionTokens < 0 { // a counter cannot go down
		return
	}
	m.promptTokens.WithLabelValues(label).Add(float64(usage.PromptTokens))
	m.completionTokens.WithLabelValues(label).Add(float64(usage.CompletionTokens))
	m.tokens.WithLabelValues(label).Add(float64(usage.PromptTokens + usage.CompletionTokens))
	if usage.CompletionTokens > 0 {
		m.tpot.WithLabelValues(label).Observe(latency.Seconds() / float64(usage.CompletionTokens))
	}
	if price := m.models[model]; price.PromptPer1M > 0 || price.CompletionPer1M > 0 {
		cost := (float64(usage.PromptTokens)*price.PromptPer1M + float64(usage.CompletionTokens)*price.CompletionPer1M) / 1e6
		m.cost.WithLabelValues(label, price.Currency).Add(cost)
	}
}
