//go:build cgo

package server

import (
	"runtime/debug"
	"sync"
	"time"
)

// quiet is how long after the last operation memory goes back to the system.
const quiet = 3 * time.Second

// trimmer gives memory back to the system after a burst of operations. No timer runs while nothing happened since the last time.
type trimmer struct {
	mu    sync.Mutex
	busy  int
	timer *time.Timer
}

func newTrimmer() *trimmer { return &trimmer{} }

func (t *trimmer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy++
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (t *trimmer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy--; t.busy > 0 {
		return
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(quiet, debug.FreeOSMemory)
		return
	}
	t.timer.Reset(quiet)
}
