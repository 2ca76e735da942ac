package classify_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify/classifytest"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

func rule(name, aggregation string, threshold float64, candidates ...string) config.EmbeddingRule {
	return config.EmbeddingRule{Name: name, Aggregation: aggregation, Threshold: &threshold, Candidates: candidates}
}

func TestMatch(t *testing.T) {
	rules, err := classify.NewEmbeddingRules([]config.EmbeddingRule{
		rule("max", "max", 0.9, "refund", "weather"),
		rule("mean", "mean", 0.9, "refund", "weather"),
		rule("mean of one kind", "mean", 0.9, "refund", "bill"),
		rule("any", "any", 0.9, "weather", "invoice"),
		rule("other", "max", 0.9, "compiler"),
	}, classifytest.Embedder{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"all matching rules, in order", "I want my money", "[max mean of one kind any]"},
		{"another meaning", "my compiler", "[other]"},
		{"no meaning", "hello", "[]"},
		{"nothing to embed", " \n", "[]"},
		{"NUL does not switch rules off", "money\x00", "[max mean of one kind any]"},
		{"only the beginning counts", strings.Repeat("é", 9<<10) + " money", "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			names, err := rules.Match(c.text)
			if got := fmt.Sprint(names); err != nil || got != c.want {
				t.Errorf("matched %s, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestNoRulesNeedNoEmbedder(t *testing.T) {
	rules, err := classify.NewEmbeddingRules(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := rules.Match("text"); err != nil || names != nil {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestBrokenEmbedderNamesTheRule(t *testing.T) {
	_, err := classify.NewEmbeddingRules([]config.EmbeddingRule{rule("r", "max", 0, "a", "b")}, classifytest.Embedder{Broken: true})
	if err == nil || strings.Count(err.Error(), "embedding rule `r`: the embedder is broken") != 1 {
		t.Errorf("error is %v, want one that names the rule once", err)
	}
}

// gauge records how many calls run at the same time; each waits until the bound is reached or a moment has passed.
type gauge struct {
	running, most atomic.Int32
	full          chan struct{}
	once          sync.Once
}

func (g *gauge) Embed(text string) ([]float32, error) {
	now := g.running.Add(1)
	defer g.running.Add(-1)
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
	}
	if now >= int32(runtime.GOMAXPROCS(0)) {
		g.once.Do(func() { close(g.full) })
	}
	select {
	case <-g.full:
	case <-time.After(time.Second):
	}
	return classifytest.Embedder{}.Embed(text)
}

func TestCandidatesAreEmbeddedConcurrentlyButBounded(t *testing.T) {
	g := &gauge{full: make(chan struct{})}
	if _, err := classify.NewEmbeddingRules([]config.EmbeddingRule{rule("r", "max", 0, strings.Fields(strings.Repeat("bill ", 64))...)}, g); err != nil {
		t.Fatal(err)
	}
	if most, want := g.most.Load(), int32(runtime.GOMAXPROCS(0)); most != want {
		t.Errorf("%d candidates at a time, want %d", most, want)
	}
}
