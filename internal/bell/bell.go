// Package bell has one worker make rounds: one when it begins, and one whenever somebody has rung since the last began. What a
// round finds to do is for others to keep; the bell only says that there is something.
package bell

import (
	"context"
	"time"

	"k8s.io/klog/v2"
)

// Bell wakes a worker. Its methods are safe for concurrent use.
type Bell struct {
	rung chan struct{} // has room for one: however often it is rung, one round is due
}

// New returns a bell, which may be rung before anybody answers it.
func New() Bell { return Bell{make(chan struct{}, 1)} }

// Ring asks for a round. It does not wait.
func (b Bell) Ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

// A round that failed is made again after retryFirst, and after twice the time whenever it fails again, up to retryMax.
const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 30 * time.Second
)

// Answer makes rounds until ctx ends, one after the other. One that fails is logged as failed and made again, after a back-off or
// when the bell is rung, whichever comes first. Only one goroutine may answer.
func (b Bell) Answer(ctx context.Context, failed string, round func(context.Context) error) {
	retry := time.NewTimer(retryMax)
	defer retry.Stop()
	backOff := time.Duration(0)
	for {
		err := round(ctx)
		if ctx.Err() != nil {
			return
		}
		retry.Stop()
		if err == nil {
			backOff = 0
		} else {
			backOff = min(max(retryFirst, 2*backOff), retryMax)
			klog.FromContext(ctx).Error(err, failed, "retryAfter", backOff)
			retry.Reset(backOff)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.rung:
		case <-retry.C:
		}
	}
}
