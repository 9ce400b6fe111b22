// Package asked lets metrics, which a process has once, tell of something that comes and goes in it, at the time when somebody asks.
package asked

import "sync/atomic"

// Source is who is asked. The zero value has nobody.
type Source[T any] struct{ now atomic.Pointer[func() T] }

// Follow has now asked until stop is called. Of two that are followed the later one counts.
func (s *Source[T]) Follow(now func() T) (stop func()) {
	asked := &now
	s.now.Store(asked)
	return func() { s.now.CompareAndSwap(asked, nil) }
}

// Now asks; ok is false where there is nobody.
func (s *Source[T]) Now() (answer T, ok bool) {
	now := s.now.Load()
	if now == nil {
		return answer, false
	}
	return (*now)(), true
}
