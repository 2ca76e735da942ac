package candle_binding

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestConcurrencyIsCapped(t *testing.T) {
	const limit = 2
	SetMaxConcurrency(limit)
	t.Cleanup(func() { SetMaxConcurrency(runtime.GOMAXPROCS(0)) })
	var inside, most atomic.Int32
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			release := acquire()
			defer release()
			now := inside.Add(1)
			for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
			}
			runtime.Gosched()
			inside.Add(-1)
		})
	}
	group.Wait()
	if most.Load() > limit {
		t.Errorf("%d at once, want at most %d", most.Load(), limit)
	}
}

func TestNULIsFoundWithItsPlace(t *testing.T) {
	err := checkNUL("Op", "fine", "a\x00b")
	if !errors.Is(err, ErrNUL) || err.Error() != "candle_binding: Op: text 2, byte 1: the text holds a NUL byte" {
		t.Error(err)
	}
	if err := checkNUL("Op", "", "模型"); err != nil {
		t.Error(err)
	}
}
