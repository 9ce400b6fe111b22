// Package synced waits for informers that have only just started.
package synced

import (
	"context"
	"time"

	"k8s.io/client-go/tools/cache"
)

// Limit is how long a request waits for what it needs to be decided: a client would rather wait than be refused.
const Limit = 10 * time.Second

// Wait returns true once all are done, false when the time is over or ctx ends. It costs next to nothing when all are
// done, which is always but for the first moments of a process.
func Wait(ctx context.Context, limit time.Duration, all ...cache.DoneChecker) bool {
	done := true
	for _, c := range all {
		done = done && cache.IsDone(c)
	}
	if done {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return cache.WaitFor(ctx, "", all...)
}
