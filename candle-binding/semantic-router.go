//go:build cgo && !stub

package candle_binding

// The search path comes from LIBRARY_PATH: an absolute -L here would enter Go's build ids.

/*
#cgo LDFLAGS: -lcandle_semantic_router -lm -ldl
#include <stdlib.h>
#include "candle_semantic_router.h"
*/
import "C"

import (
	"math"
	"runtime"
	"unsafe"
)

// The version is in the symbol's name: with another library this program does not link, or does not start.
var _ = C.candle_semantic_router_abi_1()

// Model is an open model of its own, beside the one of InitModel. Its methods may be called from any goroutine.
type Model struct{ handle C.CandleModel }

// OpenModel opens the model in dir. With useCPU false it runs on the first CUDA device, if the library can and there is
// one.
func OpenModel(dir string, useCPU bool) (*Model, error) {
	const op = "OpenModel"
	texts, free, err := cStrings(op, dir)
	if err != nil {
		return nil, err
	}
	defer free()
	var handle C.CandleModel
	err = call(op, func() bool {
		handle = C.candle_model_open(texts[0], C.bool(useCPU))
		return handle != 0
	})
	if err != nil {
		return nil, err
	}
	return &Model{handle}, nil
}

// Close lets the model go once the calls under way have returned. Later calls are errors.
func (m *Model) Close() error {
	return call("Close", func() bool { return bool(C.candle_model_close(m.handle)) })
}

// Embed returns the embedding of text.
func (m *Model) Embed(text string, maxLength int) (EmbeddingOutput, error) {
	return embed("Embed", text, func(text *C.char) C.EmbeddingResult {
		return C.candle_model_embed(m.handle, text, length(maxLength))
	})
}

// Tokenize returns the tokens that Embed would see.
func (m *Model) Tokenize(text string, maxLength int) (TokenizeResult, error) {
	return tokenize("Tokenize", text, func(text *C.char) C.TokenizationResult {
		return C.candle_model_tokenize(m.handle, text, length(maxLength))
	})
}

// InitModel opens the model that the functions below use; "" means DefaultModelDir. Once it has succeeded the model
// stays, and further calls change nothing. After a failure it may be called again.
func InitModel(dir string, useCPU bool) error {
	const op = "InitModel"
	if dir == "" {
		dir = DefaultModelDir
	}
	texts, free, err := cStrings(op, dir)
	if err != nil {
		return err
	}
	defer free()
	return call(op, func() bool { return bool(C.init_similarity_model(texts[0], C.bool(useCPU))) })
}

// IsModelInitialized tells whether InitModel has succeeded.
func IsModelInitialized() bool { return bool(C.is_similarity_model_initialized()) }

// GetEmbedding returns the embedding of text, a vector of length 1.
func GetEmbedding(text string, maxLength int) ([]float32, error) {
	output, err := embed("GetEmbedding", text, func(text *C.char) C.EmbeddingResult {
		return C.get_text_embedding(text, length(maxLength))
	})
	return output.Embedding, err
}

// TokenizeText returns the tokens that GetEmbedding would see.
func TokenizeText(text string, maxLength int) (TokenizeResult, error) {
	return tokenize("TokenizeText", text, func(text *C.char) C.TokenizationResult {
		return C.tokenize_text(text, length(maxLength))
	})
}

// CalculateSimilarity returns the cosine of two texts' embeddings.
func CalculateSimilarity(text1, text2 string, maxLength int) (float32, error) {
	const op = "CalculateSimilarity"
	texts, free, err := cStrings(op, text1, text2)
	if err != nil {
		return 0, err
	}
	defer free()
	var cosine float32
	err = call(op, func() bool {
		cosine = float32(C.calculate_similarity(texts[0], texts[1], length(maxLength)))
		return cosine == cosine // the library fails with NaN
	})
	if err != nil {
		return 0, err
	}
	return cosine, nil
}

// FindMostSimilar returns the candidate nearest to query, the first of equals. Without candidates there is none, and no
// error.
func FindMostSimilar(query string, candidates []string, maxLength int) (SimResult, error) {
	const op = "FindMostSimilar"
	if len(candidates) == 0 {
		return noCandidate, nil
	}
	texts, free, err := cStrings(op, append([]string{query}, candidates...)...)
	if err != nil {
		return noCandidate, err
	}
	defer free()
	var best C.SimilarityResult
	err = call(op, func() bool {
		// The strings of the array are C's, so Go memory holds no Go pointer while C reads it.
		best = C.find_most_similar(texts[0], &texts[1], C.int(len(candidates)), length(maxLength))
		return best.index >= 0
	})
	if err != nil {
		return noCandidate, err
	}
	return SimResult{Index: int(best.index), Score: float32(best.score)}, nil
}

func embed(op, text string, run func(*C.char) C.EmbeddingResult) (EmbeddingOutput, error) {
	texts, free, err := cStrings(op, text)
	if err != nil {
		return EmbeddingOutput{}, err
	}
	defer free()
	var result C.EmbeddingResult
	if err := call(op, func() bool { result = run(texts[0]); return !bool(result.error) }); err != nil {
		return EmbeddingOutput{}, err
	}
	defer C.free_embedding(result.data, result.length)
	return EmbeddingOutput{
		Embedding:        append([]float32(nil), unsafe.Slice((*float32)(result.data), int(result.length))...),
		ModelType:        "bert",
		SequenceLength:   int(result.sequence_length),
		ProcessingTimeMs: float32(result.processing_time_ms),
	}, nil
}

func tokenize(op, text string, run func(*C.char) C.TokenizationResult) (TokenizeResult, error) {
	texts, free, err := cStrings(op, text)
	if err != nil {
		return TokenizeResult{}, err
	}
	defer free()
	var result C.TokenizationResult
	if err := call(op, func() bool { result = run(texts[0]); return !bool(result.error) }); err != nil {
		return TokenizeResult{}, err
	}
	defer C.free_tokenization_result(result)
	count := int(result.token_count)
	tokens := make([]string, count)
	for i, token := range unsafe.Slice(result.tokens, count) {
		tokens[i] = C.GoString(token)
	}
	return TokenizeResult{
		TokenIDs: append([]int32(nil), unsafe.Slice((*int32)(result.token_ids), count)...),
		Tokens:   tokens,
	}, nil
}

// call runs f in a slot and, if it fails, returns the library's reason. The reason belongs to the operating system
// thread, so the goroutine stays on its thread until the reason is read.
func call(op string, f func() bool) error {
	release := acquire()
	defer release()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if f() {
		return nil
	}
	reason := "the library gives no reason"
	if text := C.candle_last_error(); text != nil {
		reason = C.GoString(text)
	}
	return &Error{Op: op, Reason: reason}
}

// cStrings copies texts into C memory. On success free must be called.
func cStrings(op string, texts ...string) (copies []*C.char, free func(), err error) {
	if err := checkNUL(op, texts...); err != nil {
		return nil, nil, err
	}
	copies = make([]*C.char, len(texts))
	for i, text := range texts {
		copies[i] = C.CString(text)
	}
	return copies, func() {
		for _, text := range copies {
			C.free(unsafe.Pointer(text))
		}
	}, nil
}

// length keeps a Go int within C's.
func length(maxLength int) C.int { return C.int(min(max(maxLength, 0), math.MaxInt32)) }
