package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/openai"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/routing"
)

// TestExamplesPickTheirDecisions runs the shipped requests through the shipped configuration with the real model.
//
// The model is looked for in $XTASK_MODELS, else in models/ of the repository. Without it, or without the native
// library, the test is skipped, or fails if XTASK_REQUIRE names `models` or `all`.
func TestExamplesPickTheirDecisions(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	cfg, findings, err := config.Load(filepath.Join(root, "config", "config.yaml"), config.Options{})
	if err != nil || len(findings) > 0 {
		t.Fatal(err, findings)
	}
	models := os.Getenv("XTASK_MODELS")
	if models == "" {
		models = filepath.Join(root, "models")
	}
	cfg.BertModel.ModelID = filepath.Join(models, filepath.Base(cfg.BertModel.ModelID))
	embeddings, err := loadEmbeddings(cfg)
	if err != nil {
		required := strings.FieldsFunc(os.Getenv("XTASK_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(required, "models") || slices.Contains(required, "all") {
			t.Fatal(err)
		}
		t.Skip("skipped:", err)
	}
	keywords := routing.NewKeywords(cfg.KeywordRules)
	for file, want := range map[string]string{
		"chat.json": "urgent_first big-thinker", "chat-urgent-zh.json": "urgent_first big-thinker", "chat-cpp.json": "programming coder",
		"chat-embedding.json": "billing accountant", "chat-default.json": "everything_else small-chat",
	} {
		body, err := os.ReadFile(filepath.Join(root, "examples", file))
		if err != nil {
			t.Fatal(err)
		}
		request, err := openai.ParseChatRequest(body)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		signals := routing.Signals{}
		keywords.AddMatches(request.RoutingText(), signals)
		names, err := embeddings.Match(request.RoutingText())
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, name := range names {
			signals.Add(config.ConditionEmbedding, name)
		}
		match := routing.Decide(cfg, signals)
		model, _ := routing.PickModel(cfg, match, func(string) bool { return true })
		if match == nil || match.Decision.Name+" "+model.Sent != want || request.Model != config.AutoModel {
			t.Errorf("%s picks %v and %v, want %s", file, match, model, want)
		}
	}
}
