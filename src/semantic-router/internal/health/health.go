// Package health answers whether the router is alive and ready, and lists models, over plain HTTP.
//
// It never answers "ready" before every model is loaded, nor while the router drains: a 200 that is not true sends
// requests into the void. The classification API gets its own package beside this one.
package health

import (
	"encoding/json"
	"net/http"
	"sync/atomic"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/openai"
)

// State is where the process stands between start and stop. It starts as loading.
type State struct{ phase atomic.Int32 }

const (
	loading int32 = iota
	ready
	draining
)

// Ready is called once models are loaded and the gRPC port listens.
func (s *State) Ready() { s.phase.Store(ready) }

// Draining is called when the process was asked to stop.
func (s *State) Draining() { s.phase.Store(draining) }

// Handler serves /health (alive: 200 once loaded, also while draining), /ready (200 only while new requests are
// welcome) and /v1/models, whose body models makes.
func Handler(state *State, models func() []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if state.phase.Load() == loading {
			write(w, http.StatusServiceUnavailable, map[string]string{"status": "loading", "service": "classification-api"})
			return
		}
		write(w, http.StatusOK, map[string]string{"status": "healthy", "service": "classification-api"})
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		switch state.phase.Load() {
		case loading:
			write(w, http.StatusServiceUnavailable, map[string]string{"status": "loading"})
		case draining:
			write(w, http.StatusServiceUnavailable, map[string]string{"status": "draining"})
		default:
			write(w, http.StatusOK, map[string]string{"status": "ready"})
		}
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		writeRaw(w, http.StatusOK, models())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		message := r.Method + " " + r.URL.Path + " is not served here; there are GET /health, /ready and /v1/models"
		writeRaw(w, http.StatusNotFound, openai.ErrorBody(http.StatusNotFound, "invalid_request_error", message))
	})
	return mux
}

func write(w http.ResponseWriter, status int, body map[string]string) {
	data, _ := json.Marshal(body) // a map of strings always encodes
	writeRaw(w, status, data)
}

// writeRaw ignores a failed write: the client is gone, and nobody else waits for the answer.
func writeRaw(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
