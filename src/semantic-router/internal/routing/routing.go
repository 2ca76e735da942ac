// Package routing decides: texts and signals in, decision, model and endpoint out.
//
// It is pure. It opens no socket, reads no clock and no file, runs no model and logs nothing; whatever must be
// measured or inferred (embedding matches) comes in as a value. Rules: the chapters on signals and decisions of the
// router's specification.
package routing

import (
	"math/rand/v2"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

// Signal is one rule that matched, of one of the condition types.
type Signal struct{ Type, Name string }

func (s Signal) String() string {
	if s.Name == "" {
		return s.Type
	}
	return s.Type + ":" + s.Name
}

// Signals holds every rule that matched a request. `always` is never in it: it needs no evidence.
type Signals map[Signal]struct{}

// Add records that a rule matched.
func (s Signals) Add(conditionType, name string) { s[Signal{conditionType, name}] = struct{}{} }

// Match is a decision that applies. Confidence is the share of its conditions that matched, in (0, 1].
type Match struct {
	Decision   *config.Decision
	Confidence float64
	Matched    []Signal // in the order of the decision's conditions
}

// Decide returns the winning decision, or nil if none applies, which is no error. Strategy `priority` prefers the
// higher priority, `confidence` the higher confidence; the earlier one in the file wins ties.
func Decide(cfg *config.Config, signals Signals) *Match {
	var best *Match
	for i := range cfg.Decisions {
		match := evaluate(&cfg.Decisions[i], signals)
		if match == nil {
			continue
		}
		better := best == nil || match.Decision.Priority > best.Decision.Priority
		if best != nil && cfg.Strategy == "confidence" {
			better = match.Confidence > best.Confidence
		}
		if better {
			best = match
		}
	}
	return best
}

func evaluate(decision *config.Decision, signals Signals) *Match {
	conditions := decision.Rules.Conditions
	var matched []Signal
	for _, condition := range conditions {
		signal := Signal{condition.Type, condition.Name}
		if _, ok := signals[signal]; ok || condition.Type == config.ConditionAlways {
			matched = append(matched, signal)
		}
	}
	if len(matched) == 0 || decision.Rules.Operator == "AND" && len(matched) < len(conditions) {
		return nil
	}
	return &Match{decision, float64(len(matched)) / float64(len(conditions)), matched}
}

// Model is what a request is sent as. Sent is the name in the body; Base owns endpoints, access key and prices, and
// differs from Sent for a LoRA adapter.
type Model struct{ Sent, Base string }

// PickModel returns the model for a match, or the default model for nil. Of several candidates the first that
// reachable accepts wins, else the first. ok is false if neither a match nor a default model names one.
func PickModel(cfg *config.Config, match *Match, reachable func(base string) bool) (model Model, ok bool) {
	if match == nil {
		return Model{cfg.DefaultModel, cfg.DefaultModel}, cfg.DefaultModel != ""
	}
	refs := match.Decision.ModelRefs
	if len(refs) == 0 {
		return Model{}, false
	}
	chosen := refs[0]
	for _, ref := range refs {
		if reachable(ref.Model) {
			chosen = ref
			break
		}
	}
	return Model{chosen.SentModel(), chosen.Model}, true
}

// PickEndpoint returns the heaviest of a model's preferred endpoints that usable accepts, a random one among equals;
// ok is false if there is none.
func PickEndpoint(cfg *config.Config, base string, usable func(config.Endpoint) bool) (picked config.Endpoint, ok bool) {
	equals := 0
	for _, name := range cfg.Models[base].PreferredEndpoints {
		for _, endpoint := range cfg.Endpoints {
			if endpoint.Name != name || !usable(endpoint) {
				continue
			}
			switch {
			case equals == 0 || endpoint.EffectiveWeight() > picked.EffectiveWeight():
				picked, equals = endpoint, 1
			case endpoint.EffectiveWeight() == picked.EffectiveWeight():
				if equals++; rand.IntN(equals) == 0 { // reservoir of one: each equal is as likely
					picked = endpoint
				}
			}
		}
	}
	return picked, equals > 0
}
