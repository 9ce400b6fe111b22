// Package turn is a lock that can be waited for no longer than a context lasts.
package turn

import "context"

// Turn lets one after the other work on something. Make it with New.
type Turn chan struct{}

// New makes a Turn that nobody has.
func New() Turn { return make(Turn, 1) }

// Take returns when the caller has the turn, or with the cause of ctx's end.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Give lets the next have the turn. Only who has it may call it.
func (t Turn) Give() { <-t }
