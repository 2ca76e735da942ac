// Package config owns the router's configuration file: its keys, their defaults, and every finding about them.
//
// It never touches the network, loads a model or prints a secret. A finding names file, line and key; an unknown key
// is a warning, a wrong type or a meaning that cannot be kept is an error.
//
// Rules: the configuration chapter of the router's specification. Keys of features that this router does not run yet
// have their types here too, so that enabling one is answered instead of ignored (see unsupported.go).
package config

import "log/slog"

// Config is one parsed file with defaults filled in. Tags: `yaml` is the key, `was` its older spellings.
type Config struct {
	BertModel       EmbeddingModel         `yaml:"bert_model"`
	EmbeddingModels LongEmbeddingModels    `yaml:"embedding_models"`
	Classifier      Classifier             `yaml:"classifier"`
	PromptGuard     PromptGuard            `yaml:"prompt_guard"`
	SemanticCache   SemanticCache          `yaml:"semantic_cache"`
	Tools           Tools                  `yaml:"tools"`
	Endpoints       []Endpoint             `yaml:"vllm_endpoints"`
	Models          map[string]ModelConfig `yaml:"model_config"`
	Categories      []Category             `yaml:"categories"`
	KeywordRules    []KeywordRule          `yaml:"keyword_rules"`
	EmbeddingRules  []EmbeddingRule        `yaml:"embedding_rules"`
	Strategy        string                 `yaml:"strategy"`
	Decisions       []Decision             `yaml:"decisions"`

	DefaultModel           string                     `yaml:"default_model"`
	ReasoningFamilies      map[string]ReasoningFamily `yaml:"reasoning_families"`
	DefaultReasoningEffort string                     `yaml:"default_reasoning_effort"`
	AutoModelName          string                     `yaml:"auto_model_name"`
	ListConfiguredModels   bool                       `yaml:"include_config_models_in_list"`
	ClearRouteCache        bool                       `yaml:"clear_route_cache"`
	ConfigSource           string                     `yaml:"config_source"`
	Observability          Observability              `yaml:"observability"`

	// Upstream's own files have these two at the wrong place; load.go moves them.
	MisplacedJailbreakMappingPath string `yaml:"jailbreak_mapping_path"`

	ModelRegistry           ignored `yaml:"mom_registry"`
	ResponseAPI             ignored `yaml:"response_api"`
	HallucinationMitigation ignored `yaml:"hallucination_mitigation"`
	FeedbackDetector        ignored `yaml:"feedback_detector"`
	ExternalModels          ignored `yaml:"external_models"`
	FactCheckRules          ignored `yaml:"fact_check_rules"`
	UserFeedbackRules       ignored `yaml:"user_feedback_rules"`
	PreferenceRules         ignored `yaml:"preference_rules"`
	API                     ignored `yaml:"api"`
	Router                  ignored `yaml:"router"`
}

// ignored marks keys that upstream's files carry and this router accepts without effect, with one notice for all.
type ignored struct{}

// EmbeddingModel is the sentence embedder behind embedding rules. ModelID is a directory.
type EmbeddingModel struct {
	ModelID   string  `yaml:"model_id"`
	Threshold float64 `yaml:"threshold"`
	UseCPU    bool    `yaml:"use_cpu"`
}

type LongEmbeddingModels struct {
	Qwen3ModelPath string  `yaml:"qwen3_model_path"`
	GemmaModelPath string  `yaml:"gemma_model_path"`
	UseCPU         bool    `yaml:"use_cpu"`
	UseHNSW        ignored `yaml:"use_hnsw"`
	HNSWConfig     ignored `yaml:"hnsw_config"`
}

type Classifier struct {
	CategoryModel CategoryModel `yaml:"category_model"`
	PIIModel      PIIModel      `yaml:"pii_model"`

	MisplacedPIIMappingPath string `yaml:"pii_mapping_path"`
}

type CategoryModel struct {
	ModelID             string  `yaml:"model_id"`
	Threshold           float64 `yaml:"threshold"`
	UseCPU              bool    `yaml:"use_cpu"`
	CategoryMappingPath string  `yaml:"category_mapping_path"`
	FallbackCategory    string  `yaml:"fallback_category"`
	UseModernBERT       ignored `yaml:"use_modernbert"`
}

type PIIModel struct {
	ModelID        string  `yaml:"model_id"`
	Threshold      float64 `yaml:"threshold"`
	UseCPU         bool    `yaml:"use_cpu"`
	PIIMappingPath string  `yaml:"pii_mapping_path"`
	UseModernBERT  ignored `yaml:"use_modernbert"`
}

type PromptGuard struct {
	Enabled              bool    `yaml:"enabled"`
	ModelID              string  `yaml:"model_id"`
	Threshold            float64 `yaml:"threshold"`
	UseCPU               bool    `yaml:"use_cpu"`
	JailbreakMappingPath string  `yaml:"jailbreak_mapping_path"`
	UseVLLM              bool    `yaml:"use_vllm"`
	UseModernBERT        ignored `yaml:"use_modernbert"`
}

type SemanticCache struct {
	Enabled             bool    `yaml:"enabled"`
	BackendType         string  `yaml:"backend_type"`
	SimilarityThreshold float64 `yaml:"similarity_threshold"`
	MaxEntries          int     `yaml:"max_entries"`
	TTLSeconds          int     `yaml:"ttl_seconds"`
	EvictionPolicy      string  `yaml:"eviction_policy"`
	EmbeddingModel      string  `yaml:"embedding_model"`
	BackendConfigPath   string  `yaml:"backend_config_path"`
	UseHNSW             ignored `yaml:"use_hnsw"`
	HNSWM               ignored `yaml:"hnsw_m"`
	HNSWEfConstruction  ignored `yaml:"hnsw_ef_construction"`
	MaxMemoryEntries    ignored `yaml:"max_memory_entries"`
}

type Tools struct {
	Enabled             bool    `yaml:"enabled"`
	TopK                int     `yaml:"top_k"`
	SimilarityThreshold float64 `yaml:"similarity_threshold"`
	ToolsDBPath         string  `yaml:"tools_db_path"`
	FallbackToEmpty     bool    `yaml:"fallback_to_empty"`
}

// Endpoint is one backend address. Address is an IP or a host name: no scheme, path or port.
type Endpoint struct {
	Name            string  `yaml:"name"`
	Address         string  `yaml:"address"`
	Port            int     `yaml:"port"`
	Weight          *int    `yaml:"weight"`
	HealthCheckPath ignored `yaml:"health_check_path"`
}

// EffectiveWeight is the declared weight, or 1.
func (e Endpoint) EffectiveWeight() int {
	if e.Weight == nil {
		return 1
	}
	return *e.Weight
}

type ModelConfig struct {
	PreferredEndpoints []string `yaml:"preferred_endpoints"`
	ReasoningFamily    string   `yaml:"reasoning_family"`
	Pricing            Pricing  `yaml:"pricing"`
	LoRAs              []LoRA   `yaml:"loras"`
	AccessKey          Secret   `yaml:"access_key"`

	UseReasoning   ignored `yaml:"use_reasoning"`
	PIIPolicy      ignored `yaml:"pii_policy"`
	AllowByDefault ignored `yaml:"allow_by_default"`
	Family         ignored `yaml:"family"`
}

// Pricing is money per million tokens.
type Pricing struct {
	Currency        string  `yaml:"currency"`
	PromptPer1M     float64 `yaml:"prompt_per_1m"`
	CompletionPer1M float64 `yaml:"completion_per_1m"`
}

type LoRA struct {
	Name        string `yaml:"name"`
	Description string `yaml:"description"`
}

type Category struct {
	Name           string   `yaml:"name"`
	Description    string   `yaml:"description"`
	MMLUCategories []string `yaml:"mmlu_categories"`
}

// KeywordRule matches literal words in a text. Operator is AND, OR or NOR.
type KeywordRule struct {
	Name          string   `yaml:"name" was:"category,rule_name"`
	Operator      string   `yaml:"operator"`
	Keywords      []string `yaml:"keywords"`
	CaseSensitive bool     `yaml:"case_sensitive"`
}

// EmbeddingRule matches texts near its candidates. Aggregation is mean, max or any.
type EmbeddingRule struct {
	Name        string   `yaml:"name" was:"category,rule_name"`
	Threshold   *float64 `yaml:"threshold"`
	Candidates  []string `yaml:"candidates" was:"keywords"`
	Aggregation string   `yaml:"aggregation_method"`
}

type Decision struct {
	Name        string     `yaml:"name"`
	Description string     `yaml:"description"`
	Priority    int        `yaml:"priority"`
	Rules       Rules      `yaml:"rules"`
	ModelRefs   []ModelRef `yaml:"modelRefs"`
	Plugins     []Plugin   `yaml:"plugins"`
}

// Rules combines conditions: AND wants all, OR any.
type Rules struct {
	Operator   string      `yaml:"operator"`
	Conditions []Condition `yaml:"conditions"`
}

type Condition struct {
	Type string `yaml:"type"`
	Name string `yaml:"name" was:"rule_name"`
}

// ModelRef is one model a decision may pick. UseReasoning must be said, hence the pointer.
type ModelRef struct {
	Model           string `yaml:"model"`
	LoRAName        string `yaml:"lora_name"`
	UseReasoning    *bool  `yaml:"use_reasoning"`
	ReasoningEffort string `yaml:"reasoning_effort"`
}

// SentModel is the name that the backend gets: the LoRA adapter's if there is one.
func (r ModelRef) SentModel() string {
	if r.LoRAName != "" {
		return r.LoRAName
	}
	return r.Model
}

// Plugin holds the union of the settings of all plugin types; only `enabled` is read so far (see unsupported.go).
type Plugin struct {
	Type          string       `yaml:"type"`
	Configuration PluginConfig `yaml:"configuration"`
}

type PluginConfig struct {
	Enabled             *bool    `yaml:"enabled"`
	Threshold           float64  `yaml:"threshold"`
	SimilarityThreshold float64  `yaml:"similarity_threshold"`
	PIITypesAllowed     []string `yaml:"pii_types_allowed"`
	SystemPrompt        string   `yaml:"system_prompt"`
	Mode                string   `yaml:"mode"`
	Add                 ignored  `yaml:"add"`
	Update              ignored  `yaml:"update"`
	Delete              ignored  `yaml:"delete"`
}

type ReasoningFamily struct {
	Type      string `yaml:"type"`
	Parameter string `yaml:"parameter"`
}

type Observability struct {
	Metrics Toggle  `yaml:"metrics"`
	Tracing Toggle  `yaml:"tracing"`
	Rest    ignored `yaml:"*"`
}

// Toggle is a section of which only `enabled` is read.
type Toggle struct {
	Enabled bool    `yaml:"enabled"`
	Rest    ignored `yaml:"*"`
}

// Secret is a value that no formatter, logger or encoder prints.
type Secret string

const redacted = "[redacted]"

// Reveal is the only way to the value: for the header that carries it, nothing else.
func (s Secret) Reveal() string             { return string(s) }
func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
