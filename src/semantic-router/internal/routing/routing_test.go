package routing

import (
	"fmt"
	"math"
	"testing"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

func TestKeywords(t *testing.T) {
	for _, c := range []struct {
		operator string
		keywords []string
		text     string
		want     bool
	}{
		{"OR", []string{"urgent", "outage"}, "this is URGENT!", true},
		{"OR", []string{"urgent", "outage"}, "all is well", false},
		{"AND", []string{"urgent", "outage"}, "urgent: an outage", true},
		{"AND", []string{"urgent", "outage"}, "urgent only", false},
		{"NOR", []string{"spam", "buy"}, "hello", true},
		{"NOR", []string{"spam", "buy"}, "buy now", false},
		{"OR", []string{"secret"}, "my secretary", false},
		{"OR", []string{"secret"}, "topsecret", false},
		{"OR", []string{"secret"}, "my secretary has a secret", true}, // the first hit is no word, the second is
		{"OR", []string{"secret"}, "secret_key", false},
		{"OR", []string{"1.0"}, "version 1.0 is out", true},
		{"OR", []string{"1.0"}, "version 1x0", false}, // a literal, no regular expression
		{"OR", []string{"1.0"}, "version 11.0", false},
		{"OR", []string{"*"}, "2 * 3", true},
		{"OR", []string{"*"}, "2 + 3", false},
		{"OR", []string{"紧急"}, "这是紧急情况", true},
		{"OR", []string{"紧急"}, "这不急", false},
		{"OR", []string{"urgent"}, "这个urgent问题", true},
		{"OR", []string{"gpu"}, "このgpuは", true},
		{"OR", []string{"café"}, "un CAFÉ noir", true},
		{"OR", []string{"café"}, "les cafés", false},
		{"OR", []string{"caf"}, "un café", false},        // é is a letter
		{"OR", []string{"cafe"}, "un cafe\u0301", false}, // so is e with a combining accent
		{"OR", []string{"Москва"}, "еду в МОСКВА сегодня", true},
		{"OR", []string{"кот"}, "который", false},
		{"OR", []string{"c++"}, "I like C++.", true},
		{"OR", []string{"c++"}, "c++17", true},
		{"OR", []string{"c++"}, "abc++", false},
		{"OR", []string{"k"}, "5 \u212a", true}, // the Kelvin sign folds to k
		{"OR", []string{"straße"}, "STRAẞE", true},
		{"OR", []string{"aa"}, "aaa aa", true},
		{"OR", []string{"a a"}, "ba a a", true}, // overlapping hits
		{"OR", []string{"x"}, "\xff x \xff", true},
		{"OR", []string{"x"}, "", false},
	} {
		t.Run(fmt.Sprintf("%s %v in %q", c.operator, c.keywords, c.text), func(t *testing.T) {
			signals := Signals{}
			NewKeywords([]config.KeywordRule{{Name: "r", Operator: c.operator, Keywords: c.keywords}}).AddMatches(c.text, signals)
			if _, got := signals[Signal{"keyword", "r"}]; got != c.want {
				t.Errorf("matched: %v, want %v", got, c.want)
			}
		})
	}
}

func TestEveryMatchingKeywordRuleIsReported(t *testing.T) {
	rules := NewKeywords([]config.KeywordRule{
		{Name: "none", Operator: "NOR", Keywords: []string{"absent"}},
		{Name: "a", Operator: "OR", Keywords: []string{"alpha"}},
		{Name: "case", Operator: "OR", Keywords: []string{"Alpha"}, CaseSensitive: true},
		{Name: "b", Operator: "OR", Keywords: []string{"beta"}},
	})
	signals := Signals{}
	rules.AddMatches("alpha and beta", signals)
	if got, want := fmt.Sprint(signals), fmt.Sprint(Signals{{"keyword", "none"}: {}, {"keyword", "a"}: {}, {"keyword", "b"}: {}}); got != want {
		t.Errorf("signals are %v, want %v", got, want)
	}
}

func decision(name string, priority int, operator string, conditions ...string) config.Decision {
	d := config.Decision{Name: name, Priority: priority, Rules: config.Rules{Operator: operator}, ModelRefs: []config.ModelRef{{Model: name}}}
	for _, condition := range conditions {
		if condition == "always" {
			d.Rules.Conditions = append(d.Rules.Conditions, config.Condition{Type: "always"})
		} else {
			d.Rules.Conditions = append(d.Rules.Conditions, config.Condition{Type: "keyword", Name: condition})
		}
	}
	return d
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name       string
		strategy   string
		decisions  []config.Decision
		signals    []string
		want       string
		confidence float64
	}{
		{"AND, both", "priority", []config.Decision{decision("d", 0, "AND", "a", "b")}, []string{"a", "b"}, "d", 1},
		{"AND, one", "priority", []config.Decision{decision("d", 0, "AND", "a", "b")}, []string{"a"}, "", 0},
		{"OR, one of three", "priority", []config.Decision{decision("d", 0, "OR", "a", "b", "c")}, []string{"b"}, "d", 1.0 / 3},
		{"nothing matches", "priority", []config.Decision{decision("d", 0, "OR", "a")}, nil, "", 0},
		{"no conditions", "priority", []config.Decision{decision("d", 0, "AND")}, []string{"a"}, "", 0},
		{"always", "priority", []config.Decision{decision("d", 0, "OR", "always")}, nil, "d", 1},
		{"always counts in an AND", "priority", []config.Decision{decision("d", 0, "AND", "always", "a")}, []string{"a"}, "d", 1},
		{"always does not carry an AND", "priority", []config.Decision{decision("d", 0, "AND", "always", "a")}, nil, "", 0},
		{"higher priority wins", "priority", []config.Decision{decision("low", 10, "OR", "a"), decision("high", 20, "OR", "a")}, []string{"a"}, "high", 1},
		{"negative priority beats nothing", "priority", []config.Decision{decision("d", -5, "OR", "a")}, []string{"a"}, "d", 1},
		{"equal priority: first in the file", "priority", []config.Decision{decision("one", 5, "OR", "a"), decision("two", 5, "OR", "a"), decision("three", 5, "OR", "a")}, []string{"a"}, "one", 1},
		{"confidence beats priority", "confidence", []config.Decision{decision("half", 90, "OR", "a", "b"), decision("whole", 1, "OR", "a")}, []string{"a"}, "whole", 1},
		{"equal confidence: first in the file", "confidence", []config.Decision{decision("one", 1, "OR", "a"), decision("two", 9, "OR", "a")}, []string{"a"}, "one", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			signals := Signals{}
			for _, name := range c.signals {
				signals.Add("keyword", name)
			}
			match := Decide(&config.Config{Strategy: c.strategy, Decisions: c.decisions}, signals)
			if match == nil {
				match = &Match{Decision: &config.Decision{}}
			}
			if match.Decision.Name != c.want || math.Abs(match.Confidence-c.confidence) > 1e-9 {
				t.Errorf("decision %q with confidence %v, want %q with %v", match.Decision.Name, match.Confidence, c.want, c.confidence)
			}
		})
	}
}

func TestMatchedSignalsAreReported(t *testing.T) {
	match := Decide(&config.Config{Decisions: []config.Decision{decision("d", 0, "OR", "a", "b", "always")}}, Signals{{"keyword", "b"}: {}})
	if got := fmt.Sprint(match.Matched); got != "[keyword:b always]" {
		t.Errorf("matched %s", got)
	}
}

func TestPickModel(t *testing.T) {
	cfg := &config.Config{DefaultModel: "fallback"}
	match := &Match{Decision: &config.Decision{ModelRefs: []config.ModelRef{{Model: "a"}, {Model: "b", LoRAName: "b-legal"}}}}
	for _, c := range []struct {
		name      string
		cfg       *config.Config
		match     *Match
		reachable string
		want      Model
		ok        bool
	}{
		{"first reachable", cfg, match, "ab", Model{"a", "a"}, true},
		{"second if only it is reachable, adapter on its base", cfg, match, "b", Model{"b-legal", "b"}, true},
		{"first if none is", cfg, match, "", Model{"a", "a"}, true},
		{"default", cfg, nil, "", Model{"fallback", "fallback"}, true},
		{"none", &config.Config{}, nil, "", Model{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := PickModel(c.cfg, c.match, func(base string) bool { return len(c.reachable) > 0 && (c.reachable == "ab" || base == c.reachable) })
			if got != c.want || ok != c.ok {
				t.Errorf("got %v, %v, want %v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestPickEndpoint(t *testing.T) {
	weight := func(w int) *int { return &w }
	cfg := &config.Config{
		Endpoints: []config.Endpoint{{Name: "one"}, {Name: "two", Weight: weight(2)}, {Name: "also-two", Weight: weight(2)}, {Name: "zero", Weight: weight(0)}},
		Models: map[string]config.ModelConfig{
			"light": {PreferredEndpoints: []string{"one"}}, "heavy": {PreferredEndpoints: []string{"one", "two"}},
			"equal": {PreferredEndpoints: []string{"two", "one", "also-two"}}, "zero": {PreferredEndpoints: []string{"zero"}}, "none": {},
		},
	}
	pick := func(model, dead string) map[string]int {
		counts := map[string]int{}
		for range 400 {
			picked, _ := PickEndpoint(cfg, model, func(e config.Endpoint) bool { return e.Name != dead })
			counts[picked.Name]++
		}
		return counts
	}
	for _, c := range []struct{ model, dead, want string }{
		{"light", "", "map[one:400]"}, {"heavy", "", "map[two:400]"}, {"heavy", "two", "map[one:400]"},
		{"zero", "", "map[zero:400]"}, {"none", "", "map[:400]"}, {"unknown", "", "map[:400]"},
	} {
		if got := fmt.Sprint(pick(c.model, c.dead)); got != c.want {
			t.Errorf("%s without %q: %s, want %s", c.model, c.dead, got, c.want)
		}
	}
	if counts := pick("equal", ""); len(counts) != 2 || counts["two"] < 100 || counts["also-two"] < 100 { // 100 of 400 is 10 sigma off
		t.Errorf("equal weights share unequally: %v", counts)
	}
}
