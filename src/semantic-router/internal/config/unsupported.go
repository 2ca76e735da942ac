package config

import (
	"fmt"
	"slices"
)

// unsupported reports every enabled feature that this router cannot run. Starting without a check that the file asks
// for would be worse than not starting, so these are errors unless the operator said otherwise on the command line.
func (v *validator) unsupported(options Options) {
	report := func(key, feature string) {
		if options.AllowUnsupported {
			v.warningf(key, "%s cannot be run by this router: requests go WITHOUT it (--allow-unsupported)", feature)
		} else {
			v.errorf(key, "%s cannot be run by this router; disable it, or accept requests without it by --allow-unsupported", feature)
		}
	}
	cfg := v.cfg
	for _, feature := range []struct {
		enabled   bool
		key, name string
	}{
		{cfg.PromptGuard.Enabled, "prompt_guard.enabled", "the prompt guard"},
		{cfg.SemanticCache.Enabled, "semantic_cache.enabled", "the semantic cache"},
		{cfg.Tools.Enabled, "tools.enabled", "tool selection"},
		{cfg.Observability.Tracing.Enabled, "observability.tracing.enabled", "tracing"},
	} {
		if feature.enabled {
			report(feature.key, feature.name)
		}
	}
	for i, decision := range cfg.Decisions {
		for j, condition := range decision.Rules.Conditions {
			switch condition.Type {
			case "domain", "fact_check", "user_feedback", "preference":
				report(fmt.Sprintf("decisions[%d].rules.conditions[%d]", i, j), "the signal `"+condition.Type+"`")
			}
		}
		for j, ref := range decision.ModelRefs {
			if ref.UseReasoning != nil && *ref.UseReasoning {
				report(fmt.Sprintf("decisions[%d].modelRefs[%d].use_reasoning", i, j), "reasoning control")
			}
		}
		for j, plugin := range decision.Plugins {
			key := fmt.Sprintf("decisions[%d].plugins[%d]", i, j)
			v.oneOf(key+".type", plugin.Type, "semantic-cache", "jailbreak", "pii", "system_prompt", "header_mutation", "hallucination")
			if enabled := plugin.Configuration.Enabled; enabled == nil || *enabled {
				report(key, "the plugin `"+plugin.Type+"`")
			}
		}
	}
	// Models of features that nothing asks for are only named: upstream's files list them all.
	for key, path := range map[string]string{
		"classifier.category_model.model_id": cfg.Classifier.CategoryModel.ModelID,
		"classifier.pii_model.model_id":      cfg.Classifier.PIIModel.ModelID,
		"embedding_models.qwen3_model_path":  cfg.EmbeddingModels.Qwen3ModelPath,
		"embedding_models.gemma_model_path":  cfg.EmbeddingModels.GemmaModelPath,
	} {
		if path != "" {
			v.ignored = append(v.ignored, key)
		}
	}
	slices.Sort(v.ignored)
}
