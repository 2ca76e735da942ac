// Package classify turns texts into signals that need a model: embedding rules so far. Domain, guard and PII
// classifiers get a file each beside embedding.go, with their own small interface here.
//
// It never decides anything and never loads a model by itself; candle.go is the only file that knows the native
// library.
package classify

// Embedder makes L2-normalised sentence vectors. It may be called from any number of goroutines.
type Embedder interface {
	Embed(text string) ([]float32, error)
}
