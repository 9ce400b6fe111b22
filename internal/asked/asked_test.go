package asked_test

import (
	"testing"

	"github.com/peapod/peapod/internal/asked"
)

// The later one answers, and the end of the one before it changes nothing.
func TestSource(t *testing.T) {
	var s asked.Source[int]
	want := func(answer int, there bool) {
		t.Helper()
		if got, ok := s.Now(); got != answer || ok != there {
			t.Errorf("%d, %t, want %d, %t", got, ok, answer, there)
		}
	}
	want(0, false)
	first := s.Follow(func() int { return 1 })
	want(1, true)
	second := s.Follow(func() int { return 2 })
	first()
	want(2, true)
	second()
	want(0, false)
}
