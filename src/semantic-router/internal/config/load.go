package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// AutoModel is the model name that always asks the router to choose, besides Config.AutoModelName.
const AutoModel = "auto"

// Options changes what counts as an error.
type Options struct {
	// AllowUnsupported turns enabled features that this router cannot run from errors into warnings.
	AllowUnsupported bool
}

// Load reads and checks the file at path. The configuration may be used only if the findings' Err is nil.
//
// Errors: the file cannot be read. Everything about its content is a finding.
func Load(path string, options Options) (*Config, Findings, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("load configuration: %w (name the file with --config or CONFIG_FILE)", err)
	}
	cfg, findings := Parse(path, data, options)
	return cfg, findings, nil
}

// Parse checks the YAML text of one file; file is only its name in findings.
func Parse(file string, data []byte, options Options) (*Config, Findings) {
	cfg := &Config{
		BertModel:     EmbeddingModel{Threshold: 0.6, UseCPU: true},
		Classifier:    Classifier{CategoryModel: CategoryModel{FallbackCategory: "other"}},
		SemanticCache: SemanticCache{BackendType: "memory", EvictionPolicy: "fifo", EmbeddingModel: "bert"},
		Tools:         Tools{TopK: 3},
		Strategy:      "priority",
		AutoModelName: "MoM",
		ConfigSource:  "file",
		Observability: Observability{Metrics: Toggle{Enabled: true}},
	}
	d := &decoder{file: file, lines: map[string]int{}}

	var document, second yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(data))
	switch err := documents.Decode(&document); {
	case errors.Is(err, io.EOF):
		d.report(Error, "", "the file is empty")
		return cfg, d.findings
	case err != nil:
		d.findings = append(d.findings, syntaxFinding(file, err))
		return cfg, d.findings
	}
	if err := documents.Decode(&second); !errors.Is(err, io.EOF) {
		d.report(Error, "", "more than one YAML document; only one is read")
	}
	d.decode(document.Content[0], "", reflect.ValueOf(cfg).Elem())
	d.moveMisplaced("jailbreak_mapping_path", &cfg.MisplacedJailbreakMappingPath, "prompt_guard", &cfg.PromptGuard.JailbreakMappingPath)
	d.moveMisplaced("classifier.pii_mapping_path", &cfg.Classifier.MisplacedPIIMappingPath, "classifier.pii_model", &cfg.Classifier.PIIModel.PIIMappingPath)

	v := &validator{decoder: d, cfg: cfg}
	v.validate()
	v.unsupported(options)
	if len(d.ignored) > 0 {
		d.report(Warning, "", "accepted without effect: %s", strings.Join(d.ignored, ", "))
	}
	return cfg, d.findings.sorted()
}

func (d *decoder) moveMisplaced(key string, from *string, section string, to *string) {
	if *from == "" {
		return
	}
	d.report(Warning, key, "belongs under `%s`", section)
	if *to == "" {
		*to = *from
	}
	*from = ""
}

// syntaxFinding takes the line out of the YAML library's message, the only place where it keeps it.
func syntaxFinding(file string, err error) Finding {
	message, line := err.Error(), 0
	if _, scanErr := fmt.Sscanf(message, "yaml: line %d: ", &line); scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
		_, message, _ = strings.Cut(message, ": ")
	}
	return Finding{File: file, Line: line, Severity: Error, Message: "not valid YAML: " + message}
}

// IsAuto says whether a requested model name asks the router to choose.
func (c *Config) IsAuto(model string) bool { return model == AutoModel || model == c.AutoModelName }

// BaseModel maps a LoRA adapter's name to the model that carries it, and any other name to itself. Endpoints, access
// key and prices belong to the base model.
func (c *Config) BaseModel(sent string) string {
	if _, ok := c.Models[sent]; ok {
		return sent
	}
	for name, model := range c.Models {
		for _, lora := range model.LoRAs {
			if lora.Name == sent {
				return name
			}
		}
	}
	return sent
}

// ModelNames are the configured models, sorted.
func (c *Config) ModelNames() []string { return slices.Sorted(maps.Keys(c.Models)) }
