// Package candle_binding gives Go the native inference library: sentence embeddings, similarity and tokenization.
//
// It owns the crossing of the C border and nothing else: it copies results out and frees them at once, so no C memory
// ever reaches a caller, and it never opens a socket. The contract is candle_semantic_router.h, a copy of
// include/candle_semantic_router.h (Go only notices changes of headers in a package's own directory).
//
// Built without cgo, or with the tag "stub", every function answers ErrUnavailable, so that programs which import this
// package can be tested on machines without the library.
//
// A maxLength counts tokens, the special ones included; 0 or less means the model's own limit.
package candle_binding

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// DefaultModelDir is what InitModel opens when it is given no directory.
const DefaultModelDir = "models/all-MiniLM-L6-v2"

// ErrUnavailable is every function's answer in a build without the native library.
var ErrUnavailable = errors.New("candle_binding: built without the native library (CGO_ENABLED=0 or the tag \"stub\")")

// ErrNUL reports a text that C cannot hold.
var ErrNUL = errors.New("the text holds a NUL byte")

// Error is a failure reported by the library.
type Error struct {
	Op     string // the Go function's name
	Reason string // subject, causes and hint, as the library tells them
}

func (e *Error) Error() string { return fmt.Sprintf("candle_binding: %s: %s", e.Op, e.Reason) }

// EmbeddingOutput is an embedding of length 1, with what it took to compute it.
type EmbeddingOutput struct {
	Embedding        []float32
	ModelType        string  // "bert"
	SequenceLength   int     // tokens the model saw, after truncation
	ProcessingTimeMs float32 // inside the library
}

// TokenizeResult holds token ids and, index by index, the tokens as the vocabulary has them.
type TokenizeResult struct {
	TokenIDs []int32
	Tokens   []string
}

// SimResult names the best candidate; Index and Score are -1 if there is none.
type SimResult struct {
	Index int
	Score float32
}

var noCandidate = SimResult{Index: -1, Score: -1}

// slots caps the calls inside the library: each holds an operating system thread for its whole duration, and more of
// them than processors only make all of them slower.
var slots atomic.Pointer[chan struct{}]

func init() { SetMaxConcurrency(runtime.GOMAXPROCS(0)) }

// SetMaxConcurrency allows n inferences at once (at least one); more wait. The default is GOMAXPROCS. Calls that are
// under way are not counted against a new limit.
func SetMaxConcurrency(n int) {
	limit := make(chan struct{}, max(n, 1))
	slots.Store(&limit)
}

// acquire waits for a slot and returns the function that gives it back.
func acquire() (release func()) {
	limit := *slots.Load()
	limit <- struct{}{}
	return func() { <-limit }
}

// checkNUL guards the border: C would silently end the text at the first NUL.
func checkNUL(op string, texts ...string) error {
	for i, text := range texts {
		if at := strings.IndexByte(text, 0); at >= 0 {
			return fmt.Errorf("candle_binding: %s: text %d, byte %d: %w", op, i+1, at, ErrNUL)
		}
	}
	return nil
}
