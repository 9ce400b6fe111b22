package deepstack

import (
	"sync"
	"testing"
	"unsafe"
)

// down calls itself depth times with a frame of some 500 bytes.
//
//go:noinline
func down(depth int, above *[64]int) int {
	var frame [64]int
	frame[depth%64] = depth + above[0]
	if depth == 0 {
		return frame[0]
	}
	return down(depth-1, &frame)
}

// The whole of a goroutine that goes 16 kB deep, with and without.
func BenchmarkGoroutine(b *testing.B) {
	for name, begin := range map[string]func(){"reserved": Reserve, "not": func() {}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var done sync.WaitGroup
				done.Go(func() {
					begin()
					down(28, &[64]int{})
				})
				done.Wait()
			}
		})
	}
}

// Once room is reserved, calls that fit in it move nothing.
func TestReservedRoomIsThere(t *testing.T) {
	var done sync.WaitGroup
	for range 100 {
		done.Go(func() {
			Reserve()
			var here int
			before := addressOf(&here)
			down(24, &[64]int{})
			if addressOf(&here) != before {
				t.Error("the stack moved after Reserve")
			}
		})
	}
	done.Wait()
}

// addressOf is where v is; v does not escape by it.
func addressOf(v *int) uintptr { return uintptr(unsafe.Pointer(v)) }
