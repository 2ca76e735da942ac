package classify

import (
	"fmt"
	"os"

	candle "github.com/vllm-project/semantic-router/candle-binding"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

// candleEmbedder runs a model in the native library, which bounds concurrent inference itself.
type candleEmbedder struct{ model *candle.Model }

// LoadCandle loads the sentence embedding model from its directory. It stays loaded until the process ends.
//
// Errors: the directory is missing or incomplete, or the library refuses its content.
func LoadCandle(model config.EmbeddingModel) (Embedder, error) {
	if _, err := os.Stat(model.ModelID); err != nil {
		return nil, fmt.Errorf("load the embedding model: %w (bert_model.model_id wants a directory with config.json, tokenizer.json and model.safetensors)", err)
	}
	opened, err := candle.OpenModel(model.ModelID, model.UseCPU)
	if err != nil {
		return nil, fmt.Errorf("load the embedding model %s: %w", model.ModelID, err)
	}
	return candleEmbedder{opened}, nil
}

// modelMaxLength asks the library for the limit that the model's own files state.
const modelMaxLength = 0

func (e candleEmbedder) Embed(text string) ([]float32, error) {
	output, err := e.model.Embed(text, modelMaxLength)
	return output.Embedding, err
}
