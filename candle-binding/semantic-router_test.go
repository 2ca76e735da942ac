//go:build cgo && !stub

package candle_binding

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Largest absolute difference and smallest cosine of an embedding. Source: testdata/golden/README.md, "Tolerances".
const (
	maxAbsDifference = 1e-4
	minCosine        = 0.99999
)

const tinyModel = "testdata/golden/tiny/bert_embed"

type goldenRow struct {
	Text      string    `json:"text"`
	Tokens    int       `json:"n_tokens"`
	Embedding []float64 `json:"embedding"`
	MaxLength int       `json:"max_length"`
	InputIDs  []int32   `json:"input_ids"`
	Pieces    []string  `json:"tokens"`
}

// rows reads a JSON lines file below testdata/golden.
func rows[T any](t *testing.T, path string) []T {
	t.Helper()
	file, err := os.Open(filepath.Join("testdata/golden", path))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out []T
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row T
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, row)
	}
	if err := lines.Err(); err != nil || len(out) == 0 {
		t.Fatalf("%s: %d rows, %v", path, len(out), err)
	}
	return out
}

// minilmDir returns the directory of all-MiniLM-L6-v2 below $XTASK_MODELS (default ../models). Without its weights the
// test is skipped, or fails if $XTASK_REQUIRE asks for models.
func minilmDir(t *testing.T) string {
	t.Helper()
	models := os.Getenv("XTASK_MODELS")
	if models == "" {
		models = "../models"
	}
	dir := filepath.Join(models, "all-MiniLM-L6-v2")
	if _, err := os.Stat(filepath.Join(dir, "model.safetensors")); err != nil {
		required := strings.FieldsFunc(os.Getenv("XTASK_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(required, "models") || slices.Contains(required, "all") {
			t.Fatalf("XTASK_REQUIRE wants the models: %v", err)
		}
		fmt.Println("skipped:", t.Name(), err)
		t.Skip(err)
	}
	return dir
}

func open(t *testing.T, dir string) *Model {
	t.Helper()
	model, err := OpenModel(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := model.Close(); err != nil {
			t.Error(err)
		}
	})
	return model
}

func checkVector(t *testing.T, got []float32, want []float64, what string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: dimension %d, want %d", what, len(got), len(want))
	}
	var difference, dot, a, b float64
	for i, w := range want {
		g := float64(got[i])
		difference = max(difference, math.Abs(g-w))
		dot, a, b = dot+g*w, a+g*g, b+w*w
	}
	if cosine := dot / math.Sqrt(a*b); !(difference < maxAbsDifference && cosine > minCosine) {
		t.Errorf("%s: largest difference %g, cosine %g", what, difference, cosine)
	}
}

// This test comes first: the similarity model is never closed, so "before" exists once in a process.
func TestInitFailsThenSucceedsThenStays(t *testing.T) {
	if IsModelInitialized() {
		t.Skip("initialized by an earlier run in this process")
	}
	if _, err := GetEmbedding("text", 0); err == nil || !strings.Contains(err.Error(), "init") {
		t.Errorf("GetEmbedding before InitModel: %v", err)
	}
	if _, err := TokenizeText("text", 0); err == nil {
		t.Error("TokenizeText before InitModel succeeds")
	}
	if _, err := CalculateSimilarity("a", "b", 0); err == nil {
		t.Error("CalculateSimilarity before InitModel succeeds")
	}
	if best, err := FindMostSimilar("a", []string{"b"}, 0); err == nil || best != noCandidate {
		t.Errorf("FindMostSimilar before InitModel: %v, %v", best, err)
	}
	var failure *Error
	if err := InitModel("no/such/model", true); !errors.As(err, &failure) || !strings.Contains(failure.Reason, "no/such/model") {
		t.Errorf("InitModel of a missing directory: %v", err)
	}
	if err := InitModel(tinyModel, true); err != nil || !IsModelInitialized() {
		t.Fatalf("InitModel after a failure: %v", err)
	}
	if err := InitModel("no/such/model", true); err != nil {
		t.Errorf("the second InitModel: %v", err)
	}
}

func TestSimilarityModel(t *testing.T) {
	if err := InitModel(tinyModel, true); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[goldenRow](t, "tiny/bert_embed/expected.jsonl") {
		vector, err := GetEmbedding(row.Text, 0)
		if err != nil {
			t.Fatal(err)
		}
		checkVector(t, vector, row.Embedding, row.Text)
		tokens, err := TokenizeText(row.Text, 0)
		if err != nil || len(tokens.TokenIDs) != row.Tokens || len(tokens.Tokens) != row.Tokens {
			t.Errorf("TokenizeText(%q): %d tokens, want %d, %v", row.Text, len(tokens.TokenIDs), row.Tokens, err)
		}
	}
	if cosine, err := CalculateSimilarity("please help me", "please help me", 0); err != nil || cosine < 0.9999 {
		t.Errorf("a text and itself: %v, %v", cosine, err)
	}
	candidates := []string{"code", "please help me", "write the number"}
	best, err := FindMostSimilar("please help me", candidates, 0)
	if err != nil || best.Index != 1 || best.Score < 0.9999 {
		t.Errorf("FindMostSimilar: %v, %v", best, err)
	}
	if best, err := FindMostSimilar("query", nil, 0); err != nil || best != (SimResult{-1, -1}) {
		t.Errorf("without candidates: %v, %v", best, err)
	}
}

func TestMiniLMEqualsTheReference(t *testing.T) {
	model := open(t, minilmDir(t))
	for _, path := range []string{"minilm/minilm.jsonl", "minilm/max_length.jsonl"} {
		for _, row := range rows[goldenRow](t, path) {
			what := fmt.Sprintf("%s: %q at %d", path, row.Text, row.MaxLength)
			got, err := model.Embed(row.Text, row.MaxLength)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got.SequenceLength != row.Tokens {
				t.Errorf("%s: %d tokens, want %d", what, got.SequenceLength, row.Tokens)
			}
			checkVector(t, got.Embedding, row.Embedding, what)
			tokens, err := model.Tokenize(row.Text, row.MaxLength)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if row.InputIDs != nil && !slices.Equal(tokens.TokenIDs, row.InputIDs) {
				t.Errorf("%s: ids %v, want %v", what, tokens.TokenIDs, row.InputIDs)
			}
			if row.Pieces != nil && !slices.Equal(tokens.Tokens, row.Pieces) {
				t.Errorf("%s: tokens %q, want %q", what, tokens.Tokens, row.Pieces)
			}
		}
	}
}

func TestBadInputIsAnError(t *testing.T) {
	if err := InitModel(tinyModel, true); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"NUL": "a\x00b", "invalid UTF-8": "caf\xe9", "surrogate": "\xed\xa0\x80"} {
		t.Run(name, func(t *testing.T) {
			calls := map[string]func() error{
				"GetEmbedding":        func() error { _, err := GetEmbedding(text, 0); return err },
				"TokenizeText":        func() error { _, err := TokenizeText(text, 0); return err },
				"CalculateSimilarity": func() error { _, err := CalculateSimilarity("a", text, 0); return err },
				"FindMostSimilar":     func() error { _, err := FindMostSimilar("a", []string{"b", text}, 0); return err },
				"OpenModel":           func() error { _, err := OpenModel(tinyModel+text, true); return err },
			}
			for op, run := range calls {
				err := run()
				if err == nil || !strings.Contains(err.Error(), op) {
					t.Errorf("%s: %v", op, err)
				}
				if errors.Is(err, ErrNUL) != (name == "NUL") {
					t.Errorf("%s: %v and ErrNUL", op, err)
				}
			}
		})
	}
	if _, err := GetEmbedding("text", 1); err == nil || !strings.Contains(err.Error(), "max_length 1") {
		t.Errorf("max_length without room: %v", err)
	}
}

// truncatedModel returns a copy of the tiny model whose weights end too early.
func truncatedModel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tinyModel)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 1000); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTruncatedWeightsAreRefused(t *testing.T) {
	dir := truncatedModel(t)
	if _, err := OpenModel(dir, true); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "model.safetensors")) {
		t.Errorf("OpenModel: %v", err)
	}
}

// The reason belongs to a thread of the operating system; a goroutine that changed threads would read another's.
func TestReasonIsTheFailedCallsOwn(t *testing.T) {
	SetMaxConcurrency(8)
	t.Cleanup(func() { SetMaxConcurrency(runtime.GOMAXPROCS(0)) })
	var group sync.WaitGroup
	for range 8 {
		dir := truncatedModel(t)
		group.Go(func() {
			for range 100 {
				if _, err := OpenModel(dir, true); err == nil || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: %v", dir, err)
				}
			}
		})
	}
	group.Wait()
}

func TestClosedModelIsAnError(t *testing.T) {
	model, err := OpenModel(tinyModel, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := model.Close(); err != nil {
		t.Fatal(err)
	}
	if err := model.Close(); err == nil {
		t.Error("the second Close succeeds")
	}
	if _, err := model.Embed("text", 0); err == nil {
		t.Error("Embed after Close succeeds")
	}
	if _, err := model.Tokenize("text", 0); err == nil {
		t.Error("Tokenize after Close succeeds")
	}
}

func TestConcurrentCallsEqualSerialOnes(t *testing.T) {
	const goroutines, calls = 8, 200
	model := open(t, minilmDir(t))
	texts := make([]string, 16)
	serial := make([]EmbeddingOutput, len(texts))
	for i := range texts {
		texts[i] = strings.Repeat("route this to 模型 ", 1+i%4) + fmt.Sprint(i)
		var err error
		if serial[i], err = model.Embed(texts[i], 0); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() {
			for c := range calls {
				i := (g + c) % len(texts)
				got, err := model.Embed(texts[i], 0)
				if err != nil || !slices.Equal(got.Embedding, serial[i].Embedding) {
					t.Errorf("%q: %v, or another vector", texts[i], err)
				}
			}
		})
	}
	group.Wait()
}
