//go:build !cgo || stub

package candle_binding

import (
	"errors"
	"testing"
)

func TestStubAnswersErrUnavailable(t *testing.T) {
	_, open := OpenModel("dir", true)
	_, embedding := GetEmbedding("text", 0)
	_, tokens := TokenizeText("text", 0)
	_, cosine := CalculateSimilarity("a", "b", 0)
	_, best := FindMostSimilar("a", []string{"b"}, 0)
	for _, err := range []error{open, InitModel("dir", true), embedding, tokens, cosine, best} {
		if !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	}
	if IsModelInitialized() {
		t.Error("the stub claims a model")
	}
}
