package pods

import (
	"errors"
	"sync"
)

// SlowStart calls f n times, in groups that run at once: one call, then two, four and so on. After a group in which a call
// failed no more are made, so that what fails always is not asked n times. It returns how many calls succeeded and the
// errors of the others.
func SlowStart(n int, f func(i int) error) (int, error) {
	done, next := 0, 0
	for size := 1; next < n; size *= 2 {
		first := next
		next = min(n, first+size)
		err := Each(next-first, func(i int) error { return f(first + i) })
		if err != nil {
			return done + next - first - countErrors(err), err
		}
		done += next - first
	}
	return done, nil
}

// Each calls f n times at once, waits for all and joins their errors.
func Each(n int, f func(i int) error) error {
	if n == 1 {
		return errors.Join(f(0))
	}
	errs := make([]error, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() { errs[i] = f(i) })
	}
	calls.Wait()
	return errors.Join(errs...)
}

// countErrors counts what errors.Join joined.
func countErrors(err error) int {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return len(joined.Unwrap())
	}
	return 1
}
