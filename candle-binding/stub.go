//go:build !cgo || stub

package candle_binding

// Model stands for a model that this build cannot open.
type Model struct{}

func OpenModel(dir string, useCPU bool) (*Model, error) { return nil, ErrUnavailable }

func (m *Model) Close() error { return ErrUnavailable }

func (m *Model) Embed(text string, maxLength int) (EmbeddingOutput, error) {
	return EmbeddingOutput{}, ErrUnavailable
}

func (m *Model) Tokenize(text string, maxLength int) (TokenizeResult, error) {
	return TokenizeResult{}, ErrUnavailable
}

func InitModel(dir string, useCPU bool) error { return ErrUnavailable }

func IsModelInitialized() bool { return false }

func GetEmbedding(text string, maxLength int) ([]float32, error) { return nil, ErrUnavailable }

func TokenizeText(text string, maxLength int) (TokenizeResult, error) {
	return TokenizeResult{}, ErrUnavailable
}

func CalculateSimilarity(text1, text2 string, maxLength int) (float32, error) {
	return 0, ErrUnavailable
}

func FindMostSimilar(query string, candidates []string, maxLength int) (SimResult, error) {
	return noCandidate, ErrUnavailable
}
