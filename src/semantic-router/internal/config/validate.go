package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// ConditionTypes are the signals that a decision may ask for and this router computes.
const (
	ConditionKeyword   = "keyword"
	ConditionEmbedding = "embedding"
	ConditionAlways    = "always"
)

// validator checks meaning once types are right, and brings spellings into one form (upper-case operators,
// lower-case methods), so that the packages behind it compare constants.
type validator struct {
	*decoder
	cfg *Config
}

func (v *validator) errorf(key, format string, args ...any) { v.report(Error, key, format, args...) }
func (v *validator) warningf(key, format string, args ...any) {
	v.report(Warning, key, format, args...)
}

func (v *validator) validate() {
	cfg := v.cfg
	v.fraction("bert_model.threshold", cfg.BertModel.Threshold)
	cfg.Strategy = v.oneOf("strategy", strings.ToLower(cfg.Strategy), "priority", "confidence")
	cfg.ConfigSource = v.oneOf("config_source", cfg.ConfigSource, "file")
	if cfg.AutoModelName == "" {
		v.errorf("auto_model_name", "is empty")
	}
	v.endpoints()
	v.models()
	v.rules()
	v.decisions()
	if cfg.DefaultModel != "" {
		v.knownModel("default_model", cfg.DefaultModel)
	} else if !slices.ContainsFunc(cfg.Decisions, alwaysMatches) {
		v.warningf("default_model", "is not set: requests that no decision matches are answered 503")
	}
}

func (v *validator) endpoints() {
	names := v.unique("vllm_endpoints", len(v.cfg.Endpoints), func(i int) string { return v.cfg.Endpoints[i].Name })
	for i, endpoint := range v.cfg.Endpoints {
		key := fmt.Sprintf("vllm_endpoints[%d]", i)
		if problem := CheckAddress(endpoint.Address); problem != "" {
			v.errorf(key+".address", "`%s` %s", endpoint.Address, problem)
		}
		if endpoint.Port < 1 || endpoint.Port > 65535 {
			v.errorf(key+".port", "%d is not a port; wanted 1 to 65535", endpoint.Port)
		}
		if endpoint.EffectiveWeight() < 0 {
			v.errorf(key+".weight", "%d is negative", endpoint.EffectiveWeight())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Models)) {
		for i, preferred := range v.cfg.Models[name].PreferredEndpoints {
			if !slices.Contains(names, preferred) {
				v.errorf(fmt.Sprintf("model_config.%s.preferred_endpoints[%d]", name, i), "no endpoint `%s`%s", preferred, nearest(preferred, names))
			}
		}
	}
}

// CheckAddress returns what is wrong with an endpoint's address, or "". An IP or a host name is wanted.
func CheckAddress(address string) string {
	if _, err := netip.ParseAddr(address); err == nil {
		return ""
	}
	switch {
	case address == "":
		return "is empty; wanted an IP address or a host name"
	case strings.Contains(address, "://"):
		return "has a scheme; wanted an IP address or a host name alone"
	case strings.Contains(address, "/"):
		return "has a path; wanted an IP address or a host name alone"
	case strings.Contains(address, ":"):
		return "has a port; write it under `port`"
	}
	for _, r := range address {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._", r) {
			return "is neither an IP address nor a host name"
		}
	}
	return ""
}

func (v *validator) models() {
	loraOwner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Models)) {
		key, model := "model_config."+name, v.cfg.Models[name]
		v.headerValue(key, "the model name", name)
		v.headerValue(key+".access_key", "the key", model.AccessKey.Reveal())
		if v.cfg.IsAuto(name) {
			v.errorf(key, "is the name by which clients ask the router to choose; rename the model or set auto_model_name")
		}
		for i, lora := range model.LoRAs {
			at := fmt.Sprintf("%s.loras[%d].name", key, i)
			v.headerValue(at, "the name", lora.Name)
			owner, taken := loraOwner[lora.Name]
			_, isModel := v.cfg.Models[lora.Name]
			switch {
			case lora.Name == "":
				v.errorf(at, "is empty")
			case taken || isModel:
				v.errorf(at, "`%s` is also %s", lora.Name, map[bool]string{true: "a model", false: "an adapter of " + owner}[isModel])
			}
			loraOwner[lora.Name] = name
		}
		if !(model.Pricing.PromptPer1M >= 0 && model.Pricing.CompletionPer1M >= 0) {
			v.errorf(key+".pricing", "a price is negative or not a number")
		}
		if model.Pricing.Currency == "" {
			model.Pricing.Currency = "USD"
			v.cfg.Models[name] = model
		}
		if model.ReasoningFamily != "" {
			if _, ok := v.cfg.ReasoningFamilies[model.ReasoningFamily]; !ok {
				v.errorf(key+".reasoning_family", "no family `%s`%s", model.ReasoningFamily,
					nearest(model.ReasoningFamily, slices.Collect(maps.Keys(v.cfg.ReasoningFamilies))))
			}
		}
	}
}

func (v *validator) rules() {
	cfg := v.cfg
	v.unique("categories", len(cfg.Categories), func(i int) string { return cfg.Categories[i].Name })
	v.unique("keyword_rules", len(cfg.KeywordRules), func(i int) string { return cfg.KeywordRules[i].Name })
	v.unique("embedding_rules", len(cfg.EmbeddingRules), func(i int) string { return cfg.EmbeddingRules[i].Name })
	for i := range cfg.KeywordRules {
		key, rule := fmt.Sprintf("keyword_rules[%d]", i), &cfg.KeywordRules[i]
		rule.Operator = v.oneOf(key+".operator", strings.ToUpper(rule.Operator), "AND", "OR", "NOR")
		v.texts(key+".keywords", rule.Keywords)
	}
	for i := range cfg.EmbeddingRules {
		key, rule := fmt.Sprintf("embedding_rules[%d]", i), &cfg.EmbeddingRules[i]
		if rule.Threshold == nil {
			rule.Threshold = &cfg.BertModel.Threshold
		}
		v.fraction(key+".threshold", *rule.Threshold)
		v.texts(key+".candidates", rule.Candidates)
		rule.Aggregation = strings.ToLower(rule.Aggregation)
		switch rule.Aggregation {
		case "":
			rule.Aggregation = "max"
		case "avg":
			v.warningf(key+".aggregation_method", "old spelling of `mean`")
			rule.Aggregation = "mean"
		}
		v.oneOf(key+".aggregation_method", rule.Aggregation, "mean", "max", "any")
	}
	if len(cfg.EmbeddingRules) > 0 && cfg.BertModel.ModelID == "" {
		v.errorf("bert_model.model_id", "embedding rules want the directory of a sentence embedding model here")
	}
}

func (v *validator) decisions() {
	cfg := v.cfg
	v.unique("decisions", len(cfg.Decisions), func(i int) string { return cfg.Decisions[i].Name })
	var keywordNames, embeddingNames, domainNames []string
	for _, rule := range cfg.KeywordRules {
		keywordNames = append(keywordNames, rule.Name)
	}
	for _, rule := range cfg.EmbeddingRules {
		embeddingNames = append(embeddingNames, rule.Name)
	}
	for _, category := range cfg.Categories {
		domainNames = append(append(domainNames, category.Name), category.MMLUCategories...)
	}
	for i := range cfg.Decisions {
		key, decision := fmt.Sprintf("decisions[%d]", i), &cfg.Decisions[i]
		v.headerValue(key+".name", "the name", decision.Name)
		if decision.Rules.Operator == "" {
			decision.Rules.Operator = "OR"
		}
		decision.Rules.Operator = v.oneOf(key+".rules.operator", strings.ToUpper(decision.Rules.Operator), "AND", "OR")
		if len(decision.Rules.Conditions) == 0 {
			v.warningf(key+".rules.conditions", "no condition, so `%s` never matches; a fallback has the condition `type: always`", decision.Name)
		}
		for j, condition := range decision.Rules.Conditions {
			at := fmt.Sprintf("%s.rules.conditions[%d]", key, j)
			switch condition.Type {
			case ConditionAlways:
			case ConditionKeyword:
				v.reference(at+".name", "keyword rule", condition.Name, keywordNames)
			case ConditionEmbedding:
				v.reference(at+".name", "embedding rule", condition.Name, embeddingNames)
			case "domain":
				v.reference(at+".name", "category", condition.Name, domainNames)
			case "fact_check", "user_feedback", "preference": // answered in unsupported.go
			default:
				v.oneOf(at+".type", condition.Type, ConditionKeyword, ConditionEmbedding, "domain", ConditionAlways)
			}
		}
		if len(decision.ModelRefs) == 0 {
			v.errorf(key+".modelRefs", "decision `%s` names no model", decision.Name)
		}
		for j, ref := range decision.ModelRefs {
			at := fmt.Sprintf("%s.modelRefs[%d]", key, j)
			v.knownModel(at+".model", ref.Model)
			if ref.UseReasoning == nil {
				v.errorf(at+".use_reasoning", "is not set; say true or false")
			}
			isNamed := func(lora LoRA) bool { return lora.Name == ref.LoRAName }
			if ref.LoRAName != "" && !slices.ContainsFunc(cfg.Models[ref.Model].LoRAs, isNamed) {
				v.errorf(at+".lora_name", "model `%s` has no adapter `%s` among its loras", ref.Model, ref.LoRAName)
			}
		}
	}
}

func alwaysMatches(decision Decision) bool {
	isAlways := func(condition Condition) bool { return condition.Type == ConditionAlways }
	if decision.Rules.Operator == "AND" {
		return len(decision.Rules.Conditions) == 1 && isAlways(decision.Rules.Conditions[0])
	}
	return slices.ContainsFunc(decision.Rules.Conditions, isAlways)
}

// unique checks that n names in a list are there and differ; it returns them.
func (v *validator) unique(list string, n int, name func(i int) string) []string {
	var names []string
	for i := range n {
		key := fmt.Sprintf("%s[%d].name", list, i)
		switch {
		case name(i) == "":
			v.errorf(key, "is not set")
		case slices.Contains(names, name(i)):
			v.errorf(key, "`%s` is taken by an earlier entry", name(i))
		}
		names = append(names, name(i))
	}
	return names
}

func (v *validator) reference(key, kind, name string, known []string) {
	if !slices.Contains(known, name) {
		v.errorf(key, "no %s `%s`%s", kind, name, nearest(name, known))
	}
}

func (v *validator) knownModel(key, name string) {
	if _, ok := v.cfg.Models[name]; !ok {
		v.errorf(key, "`%s` is not in model_config%s", name, nearest(name, slices.Sorted(maps.Keys(v.cfg.Models))))
	}
}

func (v *validator) oneOf(key, value string, valid ...string) string {
	if !slices.Contains(valid, value) {
		v.errorf(key, "`%s` is not one of %s", value, strings.Join(valid, ", "))
	}
	return value
}

// fraction also refuses NaN, which compares false with everything.
func (v *validator) fraction(key string, value float64) {
	if !(value >= 0 && value <= 1) {
		v.errorf(key, "%v is outside 0 to 1", value)
	}
}

func (v *validator) texts(key string, texts []string) {
	if len(texts) == 0 {
		v.errorf(key, "is empty, so the rule says nothing")
	}
	for i, text := range texts {
		if strings.TrimSpace(text) == "" {
			v.errorf(fmt.Sprintf("%s[%d]", key, i), "is blank")
		}
	}
}

// headerValue refuses what could not travel in an HTTP header. It never quotes the value, which may be a secret.
func (v *validator) headerValue(key, what, value string) {
	if !IsHeaderValue(value) {
		v.errorf(key, "%s cannot travel in an HTTP header: it has a control character or blanks at an end", what)
	}
}

// IsHeaderValue says whether text can be sent as the value of an HTTP header and arrive unchanged.
func IsHeaderValue(text string) bool {
	return strings.TrimSpace(text) == text && !strings.ContainsFunc(text, unicode.IsControl)
}
