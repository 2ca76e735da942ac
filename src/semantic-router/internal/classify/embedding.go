package classify

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

// maxEmbeddedBytes bounds the work of tokenising one text. Sentence models read 256 or 512 tokens, far less than this.
const maxEmbeddedBytes = 16 << 10

// EmbeddingRules matches texts against the candidates' vectors, which are computed once. It is immutable.
type EmbeddingRules struct {
	embedder Embedder
	rules    []embeddingRule
}

type embeddingRule struct {
	config.EmbeddingRule
	vectors [][]float32
}

// NewEmbeddingRules computes the vector of every candidate, as many at a time as there are processors.
//
// Errors: the first candidate of each rule that the model cannot embed, with the rule's name.
func NewEmbeddingRules(rules []config.EmbeddingRule, embedder Embedder) (*EmbeddingRules, error) {
	e := &EmbeddingRules{embedder: embedder}
	var wait sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	failures := make([]error, len(rules))
	for i, rule := range rules {
		e.rules = append(e.rules, embeddingRule{rule, make([][]float32, len(rule.Candidates))})
		vectors := e.rules[i].vectors
		var once sync.Once
		for j, candidate := range rule.Candidates {
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				vector, err := embedder.Embed(candidate)
				if err != nil {
					once.Do(func() {
						failures[i] = fmt.Errorf("embed candidate %d of embedding rule `%s`: %w", j, rule.Name, err)
					})
				}
				vectors[j] = vector
			})
		}
	}
	wait.Wait()
	return e, errors.Join(failures...)
}

// Match returns the names of all rules that text matches, in file order.
//
// Errors: the text could not be embedded.
func (e *EmbeddingRules) Match(text string) ([]string, error) {
	text = embeddable(text)
	if len(e.rules) == 0 || text == "" {
		return nil, nil
	}
	query, err := e.embedder.Embed(text)
	if err != nil {
		return nil, fmt.Errorf("embed the request's text: %w", err)
	}
	var names []string
	for _, rule := range e.rules {
		score, err := rule.score(query)
		if err != nil {
			return nil, err
		}
		if score >= *rule.Threshold {
			names = append(names, rule.Name)
		}
	}
	return names, nil
}

// score aggregates the cosine similarities between query and the candidates. `any` asks whether one candidate passes
// the threshold, which is what comparing the largest answers.
func (r embeddingRule) score(query []float32) (float64, error) {
	sum, largest := 0.0, -1.0
	for _, vector := range r.vectors {
		if len(vector) != len(query) {
			return 0, fmt.Errorf("embedding rule `%s`: vectors of %d and %d dimensions", r.Name, len(vector), len(query))
		}
		similarity := 0.0
		for i, x := range vector {
			similarity += float64(x) * float64(query[i])
		}
		sum += similarity
		largest = max(largest, similarity)
	}
	if r.Aggregation == "mean" {
		return sum / float64(len(r.vectors)), nil
	}
	return largest, nil
}

// embeddable cuts text to maxEmbeddedBytes at the border of a character. NUL, legal in JSON but not in C, becomes a
// blank, lest one such character switch the rules off.
func embeddable(text string) string {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\x00", " "))
	if len(text) <= maxEmbeddedBytes {
		return text
	}
	end := maxEmbeddedBytes
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
