// Package classifytest has an embedder for tests that need meaning but no model. It must never reach a binary.
package classifytest

import (
	"errors"
	"math"
	"strings"
)

// concepts are groups of words that count as the same meaning: one dimension each.
var concepts = [][]string{
	{"invoice", "bill", "billed", "refund", "payment", "money", "charge"},
	{"weather", "rain", "sunny"},
	{"code", "compiler", "pointer"},
}

// Embedder maps a text to the L2-normalised counts of its concepts, plus one dimension that every text has a little of.
type Embedder struct {
	Broken bool
}

// Embed fails if the embedder is broken or the text holds NUL, as the native library does.
func (e Embedder) Embed(text string) ([]float32, error) {
	if e.Broken || strings.Contains(text, "\x00") {
		return nil, errors.New("the embedder is broken")
	}
	vector := make([]float32, len(concepts)+1)
	vector[len(concepts)] = 0.5
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r < 'a' || r > 'z' }) {
		for i, concept := range concepts {
			for _, member := range concept {
				if word == member {
					vector[i]++
				}
			}
		}
	}
	norm := 0.0
	for _, x := range vector {
		norm += float64(x * x)
	}
	for i := range vector {
		vector[i] /= float32(math.Sqrt(norm))
	}
	return vector, nil
}
