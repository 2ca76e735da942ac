package health

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestStatesAreToldTruthfully(t *testing.T) {
	state := &State{}
	handler := Handler(state, func() []byte { return []byte(`{"object":"list"}`) })
	check := func(moment, method, path string, status int, body string) {
		t.Helper()
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
		if recorder.Code != status || !strings.Contains(recorder.Body.String(), body) || recorder.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s is %d %s, want %d with %s", moment, method, path, recorder.Code, recorder.Body, status, body)
		}
	}
	check("loading", "GET", "/health", http.StatusServiceUnavailable, "loading")
	check("loading", "GET", "/ready", http.StatusServiceUnavailable, "loading")
	state.Ready()
	check("ready", "GET", "/health", http.StatusOK, `"service":"classification-api","status":"healthy"`)
	check("ready", "GET", "/ready", http.StatusOK, "ready")
	check("ready", "GET", "/v1/models?x=1", http.StatusOK, `{"object":"list"}`)
	check("ready", "POST", "/health", http.StatusNotFound, "not served here")
	check("ready", "GET", "/other", http.StatusNotFound, `"type":"invalid_request_error"`)
	state.Draining()
	check("draining", "GET", "/health", http.StatusOK, "healthy")
	check("draining", "GET", "/ready", http.StatusServiceUnavailable, "draining")
}
