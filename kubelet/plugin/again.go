package plugin

import (
	"context"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// Back-off of what a plugin could not do; that of Kubernetes' kubelet.
const (
	retryFirst = 500 * time.Millisecond
	retryMax   = 2*time.Minute + 2*time.Second
)

// Again tries until that succeeds, with back-off, and says whether it did before ctx ended. What try returns beside an error is closed
// when there is reason to try earlier; it may be nil. A failure is logged with what it is about.
func Again(ctx context.Context, failed string, try func() (news <-chan struct{}, err error), about ...any) bool {
	for delay := retryFirst; ; delay = min(2*delay, retryMax) {
		news, err := try()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		klog.FromContext(ctx).Error(err, failed, append(slices.Clone(about), "after", delay)...)
		select {
		case <-ctx.Done():
			return false
		case <-news:
		case <-time.After(delay):
		}
	}
}
