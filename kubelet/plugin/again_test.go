package plugin

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestAgain: each failure doubles the wait, news ends it, and so does ctx.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, news := time.Now(), make(chan struct{})
		close(news)
		var at []time.Duration
		ok := Again(t.Context(), "Not yet", func() (<-chan struct{}, error) {
			at = append(at, time.Since(begin))
			switch len(at) {
			case 3:
				return news, errors.New("there is news")
			case 4:
				return nil, nil
			}
			return nil, errors.New("no")
		})
		if want := []time.Duration{0, retryFirst, 3 * retryFirst, 3 * retryFirst}; !ok || !slices.Equal(at, want) {
			t.Errorf("%t, tried at %v, want %v", ok, at, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		begin = time.Now()
		if Again(ctx, "Never", func() (<-chan struct{}, error) { return nil, errors.New("no") }) || time.Since(begin) != time.Hour {
			t.Errorf("ended after %v", time.Since(begin))
		}
	})
}
