package bell

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// worker counts rounds, at the times of a clock that only this test moves, and fails them as it is told.
type worker struct {
	bell  Bell
	start time.Time
	at    []time.Duration
	err   error
}

func (w *worker) round(context.Context) error {
	w.at = append(w.at, time.Since(w.start))
	return w.err
}

// answered runs f beside a worker who answers.
func answered(t *testing.T, f func(w *worker)) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{bell: New(), start: time.Now()}
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), ktesting.NewLogger(t, ktesting.DefaultConfig)))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.bell.Answer(ctx, "Cannot make a round, will retry", w.round)
		}()
		synctest.Wait()
		f(w)
		cancel()
		<-ended
	})
}

func (w *worker) want(t *testing.T, at ...time.Duration) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(w.at, at) {
		t.Errorf("rounds at %v, want %v", w.at, at)
	}
}

func TestRings(t *testing.T) {
	answered(t, func(w *worker) {
		w.want(t, 0) // one that nobody rang for
		time.Sleep(time.Hour)
		w.want(t, 0) // and none because time goes by
		w.bell.Ring()
		w.want(t, 0, time.Hour)
	})
}

// Who rings while a round is made may have come too late for it: there is one more, however often it rang.
func TestRingsDuringARound(t *testing.T) {
	b, rounds := New(), 0
	ctx, cancel := context.WithCancel(t.Context())
	b.Answer(ctx, "", func(context.Context) error {
		if rounds++; rounds == 1 {
			b.Ring()
			b.Ring()
		} else {
			cancel()
		}
		return nil
	})
	if rounds != 2 {
		t.Errorf("%d rounds, want 2", rounds)
	}
	select {
	case <-b.rung:
		t.Error("two rings during a round ask for more than one")
	default:
	}
}

func TestBackOff(t *testing.T) {
	answered(t, func(w *worker) {
		w.err = errors.New("the kernel refuses")
		w.bell.Ring()
		const ms = time.Millisecond
		time.Sleep(700 * ms)
		w.want(t, 0, 0, 100*ms, 300*ms, 700*ms)
		time.Sleep(time.Hour) // 800 ms and so on up to 30 s
		synctest.Wait()
		if n := len(w.at); w.at[n-1]-w.at[n-2] != retryMax {
			t.Errorf("after many failures the rounds are %v apart", w.at[n-1]-w.at[n-2])
		}
		w.err, w.at = nil, nil
		w.bell.Ring() // at once, whatever is left of the back-off
		w.want(t, time.Hour+700*ms)
		time.Sleep(time.Hour)
		w.want(t, time.Hour+700*ms)
		w.err, w.at = errors.New("again"), nil
		w.bell.Ring()
		time.Sleep(100 * ms) // the back-off is short again
		w.want(t, 2*time.Hour+700*ms, 2*time.Hour+800*ms)
	})
}

// What ctx cuts short has not failed.
func TestEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rounds := 0
	New().Answer(ctx, "", func(context.Context) error {
		rounds++
		cancel()
		return context.Canceled
	})
	if rounds != 1 {
		t.Errorf("%d rounds, want 1", rounds)
	}
}
