package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// base is valid and has no finding; the cases append to it, so their first own line is 17.
const base = `bert_model: { model_id: models/mini }
vllm_endpoints:
  - { name: lab, address: 10.0.0.1, port: 8000 }
model_config:
  small: { preferred_endpoints: [lab] }
  big: { preferred_endpoints: [lab], loras: [{ name: legal }] }
keyword_rules:
  - { name: urgent, operator: or, keywords: [urgent] }
embedding_rules:
  - { name: bills, candidates: [my bill] }
default_model: small
decisions:
  - name: first
    priority: 10
    rules: { operator: and, conditions: [{ type: keyword, name: urgent }, { type: embedding, name: bills }] }
    modelRefs: [{ model: big, lora_name: legal, use_reasoning: false }]
`

func TestBaseIsCleanAndGetsDefaults(t *testing.T) {
	cfg, findings := Parse("f.yaml", []byte(base), Options{})
	if len(findings) > 0 {
		t.Fatalf("findings in a clean file: %v", findings)
	}
	rule := cfg.EmbeddingRules[0]
	got := fmt.Sprintln(cfg.Strategy, cfg.AutoModelName, cfg.Decisions[0].Rules.Operator, cfg.KeywordRules[0].Operator,
		rule.Aggregation, *rule.Threshold, cfg.Endpoints[0].EffectiveWeight(), cfg.Models["small"].Pricing.Currency, cfg.BaseModel("legal"))
	if want := "priority MoM AND OR max 0.6 1 USD big\n"; got != want {
		t.Errorf("defaults are %q, want %q", got, want)
	}
}

func TestFindings(t *testing.T) {
	// Each case replaces text in base, or appends where `from` is empty, and states every finding.
	for _, c := range []struct {
		name, from, to string
		want           []string
	}{
		{"unknown key warns and suggests", "", "defalt_model: x\n",
			[]string{"f.yaml:17: warning: defalt_model: unknown key (did you mean `default_model`?)"}},
		{"unknown nested key", "keywords: [urgent]", "keywords: [urgent], fuzzy: 1",
			[]string{"f.yaml:8: warning: keyword_rules[0].fuzzy: unknown key"}},
		{"wrong type: text for integer", "port: 8000", "port: eight",
			[]string{"f.yaml:3: error: vllm_endpoints[0].port: wanted an integer, got `eight`", "f.yaml:3: error: vllm_endpoints[0].port: 0 is not a port; wanted 1 to 65535"}},
		{"wrong type: quoted integer", "priority: 10", `priority: "10"`,
			[]string{"f.yaml:14: error: decisions[0].priority: wanted an integer, got `10`"}},
		{"wrong type: fraction for integer", "priority: 10", "priority: 1.5",
			[]string{"f.yaml:14: error: decisions[0].priority: wanted an integer, got `1.5`"}},
		{"wrong type: text for list", "keywords: [urgent]", "keywords: urgent",
			[]string{"f.yaml:8: error: keyword_rules[0].keywords: wanted a list, got a single value", "f.yaml:8: error: keyword_rules[0].keywords: is empty, so the rule says nothing"}},
		{"wrong type: list for mapping", "", "tools: [a]\n",
			[]string{"f.yaml:17: error: tools: wanted a mapping, got a list"}},
		{"wrong type: text for boolean", "use_reasoning: false", "use_reasoning: sometimes",
			[]string{"f.yaml:16: error: decisions[0].modelRefs[0].use_reasoning: wanted true or false, got `sometimes`"}},
		{"a secret of the wrong type is not quoted", "small: { ", "small: { access_key: [sk-secret], ",
			[]string{"f.yaml:5: error: model_config.small.access_key: wanted a string, got a list"}},
		{"a secret that is no header value is not quoted", "small: { ", `small: { access_key: "sk-secret\n", `,
			[]string{"f.yaml:5: error: model_config.small.access_key: the key cannot travel in an HTTP header: it has a control character or blanks at an end"}},
		{"numbers are keywords as written", "keywords: [urgent]", "keywords: [1.0, 2024, true]", nil},
		{"a key given twice", "", "default_model: big\n",
			[]string{"f.yaml:11: error: default_model: given twice, again in line 17"}},
		{"not YAML", "", "a: b: c\n",
			[]string{"f.yaml:17: error: not valid YAML: mapping values are not allowed in this context"}},
		{"another tool's file", "", "signals: {}\n",
			[]string{"f.yaml:17: warning: signals: unknown key: this is the input format of the vllm-sr tool, not the router's"}},
		{"accepted without effect", "", "router: { a: 1 }\nobservability: { logging: { level: x } }\n",
			[]string{"f.yaml: warning: accepted without effect: observability.logging, router"}},
		{"merge keys and aliases", "  small: { preferred_endpoints: [lab] }", "  small: &m { preferred_endpoints: [lab] }\n  third: { <<: *m, reasoning_family: q }",
			[]string{"f.yaml:6: error: model_config.third.reasoning_family: no family `q`"}},
		{"a merge that contains itself ends", "", "categories: [&c { name: law, <<: *c }, { name: x, <<: [5] }]\n",
			[]string{"f.yaml:17: error: categories[0]: `<<` wants a mapping that does not contain itself", "f.yaml:17: error: categories[1]: `<<` wants a mapping that does not contain itself"}},

		{"old spelling: category", "{ name: urgent, op", "{ category: urgent, op",
			[]string{"f.yaml:8: warning: keyword_rules[0].category: old spelling of `name`"}},
		{"old spelling: keywords of embedding rules, avg", "candidates: [my bill]", "keywords: [my bill], aggregation_method: avg",
			[]string{"f.yaml:10: warning: embedding_rules[0].keywords: old spelling of `candidates`", "f.yaml:10: warning: embedding_rules[0].aggregation_method: old spelling of `mean`"}},
		{"old spelling: rule_name", "{ type: keyword, name: urgent }", "{ type: keyword, rule_name: urgent }",
			[]string{"f.yaml:15: warning: decisions[0].rules.conditions[0].rule_name: old spelling of `name`"}},
		{"new and old spelling", "{ name: urgent, op", "{ name: urgent, category: urgent, op",
			[]string{"f.yaml:8: warning: keyword_rules[0].category: old spelling of `name`", "f.yaml:8: error: keyword_rules[0].name: given twice, once by an old spelling"}},
		{"old and new spelling", "{ name: urgent, op", "{ category: urgent, name: urgent, op",
			[]string{"f.yaml:8: warning: keyword_rules[0].category: old spelling of `name`", "f.yaml:8: error: keyword_rules[0].name: given twice, once by an old spelling"}},
		{"misplaced mapping paths", "", "jailbreak_mapping_path: a\nclassifier: { pii_mapping_path: b }\n",
			[]string{"f.yaml:17: warning: jailbreak_mapping_path: belongs under `prompt_guard`", "f.yaml:18: warning: classifier.pii_mapping_path: belongs under `classifier.pii_model`"}},

		{"unknown operator", "operator: or", "operator: XOR",
			[]string{"f.yaml:8: error: keyword_rules[0].operator: `XOR` is not one of AND, OR, NOR"}},
		{"unknown condition type", "{ type: keyword, name: urgent }", "{ type: kyeword, name: urgent }",
			[]string{"f.yaml:15: error: decisions[0].rules.conditions[0].type: `kyeword` is not one of keyword, embedding, domain, always"}},
		{"unknown rule", "type: keyword, name: urgent", "type: keyword, name: urgnt",
			[]string{"f.yaml:15: error: decisions[0].rules.conditions[0].name: no keyword rule `urgnt` (did you mean `urgent`?)"}},
		{"unknown model", "default_model: small", "default_model: smal",
			[]string{"f.yaml:11: error: default_model: `smal` is not in model_config (did you mean `small`?)"}},
		{"unknown endpoint", "small: { preferred_endpoints: [lab] }", "small: { preferred_endpoints: [lap] }",
			[]string{"f.yaml:5: error: model_config.small.preferred_endpoints[0]: no endpoint `lap` (did you mean `lab`?)"}},
		{"unknown adapter", "lora_name: legal", "lora_name: ilegal",
			[]string{"f.yaml:16: error: decisions[0].modelRefs[0].lora_name: model `big` has no adapter `ilegal` among its loras"}},
		{"use_reasoning missing", ", use_reasoning: false", "",
			[]string{"f.yaml:16: error: decisions[0].modelRefs[0].use_reasoning: is not set; say true or false"}},
		{"no modelRefs", "    modelRefs: [{ model: big, lora_name: legal, use_reasoning: false }]\n", "",
			[]string{"f.yaml:13: error: decisions[0].modelRefs: decision `first` names no model"}},
		{"threshold", "candidates: [my bill]", "candidates: [my bill], threshold: 1.2",
			[]string{"f.yaml:10: error: embedding_rules[0].threshold: 1.2 is outside 0 to 1"}},
		{"threshold not a number", "candidates: [my bill]", "candidates: [my bill], threshold: .nan",
			[]string{"f.yaml:10: error: embedding_rules[0].threshold: NaN is outside 0 to 1"}},
		{"address with a scheme", "address: 10.0.0.1", "address: http://lab",
			[]string{"f.yaml:3: error: vllm_endpoints[0].address: `http://lab` has a scheme; wanted an IP address or a host name alone"}},
		{"address with a port", "address: 10.0.0.1", `address: "lab:80"`,
			[]string{"f.yaml:3: error: vllm_endpoints[0].address: `lab:80` has a port; write it under `port`"}},
		{"IPv6 address", "address: 10.0.0.1", `address: "::1"`, nil},
		{"same name twice", "{ name: urgent, operator: or, keywords: [urgent] }", "{ name: urgent, operator: or, keywords: [a] }\n  - { name: urgent, operator: or, keywords: [b] }",
			[]string{"f.yaml:9: error: keyword_rules[1].name: `urgent` is taken by an earlier entry"}},
		{"a model named auto", "  small: {", "  auto: {}\n  small: {",
			[]string{"f.yaml:5: error: model_config.auto: is the name by which clients ask the router to choose; rename the model or set auto_model_name"}},
		{"no embedding model", "bert_model: { model_id: models/mini }", "bert_model: {}",
			[]string{"f.yaml:1: error: bert_model.model_id: embedding rules want the directory of a sentence embedding model here"}},
		{"no default and no fallback", "default_model: small\n", "",
			[]string{"f.yaml: warning: default_model: is not set: requests that no decision matches are answered 503"}},
		{"a fallback is a default", "default_model: small", "strategy: priority", // always under AND with others is no fallback
			[]string{"f.yaml: warning: default_model: is not set: requests that no decision matches are answered 503"}},
	} {
		t.Run(c.name, func(t *testing.T) { checkFindings(t, c.from, c.to, Options{}, c.want) })
	}
}

const unsupported = " cannot be run by this router; disable it, or accept requests without it by --allow-unsupported"

func TestEnabledButUnsupportedFeaturesAreRefused(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"guard", "", "prompt_guard: { enabled: true }\n", "f.yaml:17: error: prompt_guard.enabled: the prompt guard"},
		{"cache", "", "semantic_cache: { enabled: true }\n", "f.yaml:17: error: semantic_cache.enabled: the semantic cache"},
		{"tools", "", "tools: { enabled: true }\n", "f.yaml:17: error: tools.enabled: tool selection"},
		{"tracing", "", "observability: { tracing: { enabled: true } }\n", "f.yaml:17: error: observability.tracing.enabled: tracing"},
		{"reasoning", "use_reasoning: false", "use_reasoning: true", "f.yaml:16: error: decisions[0].modelRefs[0].use_reasoning: reasoning control"},
		{"plugin", "", "    plugins: [{ type: pii, configuration: { enabled: true } }]\n", "f.yaml:17: error: decisions[0].plugins[0]: the plugin `pii`"},
		{"plugin without `enabled`", "", "    plugins: [{ type: system_prompt, configuration: { system_prompt: x } }]\n", "f.yaml:17: error: decisions[0].plugins[0]: the plugin `system_prompt`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkFindings(t, c.from, c.to, Options{}, []string{c.want + unsupported})
			_, findings := Parse("f.yaml", []byte(edited(t, c.from, c.to)), Options{AllowUnsupported: true})
			if findings.Err() != nil || len(findings) != 1 || !strings.Contains(findings[0].Message, "WITHOUT") {
				t.Errorf("with AllowUnsupported: %v, want one loud warning", findings)
			}
		})
	}
	t.Run("domain signal", func(t *testing.T) {
		checkFindings(t, "    rules: { operator: and, conditions: [{ type: keyword, name: urgent },", "    rules: { operator: and, conditions: [{ type: domain, name: law },", Options{}, []string{
			"f.yaml:15: error: decisions[0].rules.conditions[0].name: no category `law`",
			"f.yaml:15: error: decisions[0].rules.conditions[0]: the signal `domain`" + unsupported})
	})
	t.Run("disabled plugin", func(t *testing.T) {
		checkFindings(t, "", "    plugins: [{ type: pii, configuration: { enabled: false } }]\n", Options{}, nil)
	})
}

func edited(t *testing.T, from, to string) string {
	t.Helper()
	if from == "" {
		return base + to
	}
	if !strings.Contains(base, from) {
		t.Fatalf("the base has no %q to replace", from)
	}
	return strings.Replace(base, from, to, 1)
}

func checkFindings(t *testing.T, from, to string, options Options, want []string) {
	t.Helper()
	_, findings := Parse("f.yaml", []byte(edited(t, from, to)), options)
	var got []string
	for _, finding := range findings {
		got = append(got, finding.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("findings:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	cfg, _ := Parse("f.yaml", []byte(edited(t, "small: { ", "small: { access_key: sk-secret, ")), Options{})
	if cfg.Models["small"].AccessKey.Reveal() != "sk-secret" {
		t.Fatal("the key was not read")
	}
	asJSON, _ := json.Marshal(cfg)
	asYAML, _ := yaml.Marshal(cfg)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "model", cfg.Models["small"], "key", cfg.Models["small"].AccessKey)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "model", cfg.Models["small"])
	for i, printed := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v %#v", cfg, cfg), string(asJSON), string(asYAML), log.String()} {
		if strings.Contains(printed, "sk-secret") || !strings.Contains(printed, redacted) {
			t.Errorf("form %d shows the key, or nothing in its place: %s", i, printed)
		}
	}
}

func TestShippedConfigurationIsClean(t *testing.T) {
	path := filepath.Join("..", "..", "..", "..", "config", "config.yaml")
	_, findings, err := Load(path, Options{})
	if err != nil || len(findings) > 0 {
		t.Errorf("%v, findings: %v", err, findings)
	}
}

func TestMissingFileNamesItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent.yaml")
	if _, _, err := Load(path, Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v, want one that names %s", err, path)
	}
}
