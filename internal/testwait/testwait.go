// Package testwait has tests wait for what comes about in the background.
package testwait

import (
	"testing"
	"time"
)

// patience is how long a test waits on a machine that is busy; pace is how often it looks where nothing tells it to.
const (
	patience = 2 * time.Minute
	pace     = 5 * time.Millisecond
)

// Until returns when ok says so, which is asked at once, and again whenever news has something or is closed; news is called before
// each time. It fails the test, with what it waited for, when that does not come about.
func Until[T any](t testing.TB, what func() string, news func() <-chan T, ok func() bool) {
	t.Helper()
	end := time.After(patience)
	for {
		again := news()
		if ok() {
			return
		}
		select {
		case <-again:
		case <-end:
			t.Fatalf("not in time: %s", what())
		}
	}
}

// Polling is the news of what there is no event for.
func Polling() func() <-chan time.Time {
	return func() <-chan time.Time { return time.After(pace) }
}
