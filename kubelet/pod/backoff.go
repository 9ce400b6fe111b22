package pod

import "time"

// Kubernetes' restart back-off: 10 s doubling to 5 min; forgotten when the
// container ran for twice the maximum.
const (
	backOffInitial = 10 * time.Second
	backOffMax     = 300 * time.Second
)

// Backoff is the restart back-off of one container.
type Backoff struct {
	Delay   time.Duration
	Updated time.Time // the end of the run that the delay answers to
}

// expired says whether a run that ended at t was long enough to start over.
func (b Backoff) expired(t time.Time) bool { return t.Sub(b.Updated) > 2*backOffMax }

// until is when a container that ended at t may start again; zero means now.
func (b Backoff) until(t, now time.Time) time.Time {
	if b.Delay == 0 || b.expired(t) {
		return time.Time{}
	}
	if at := t.Add(b.Delay); at.After(now) {
		return at
	}
	return time.Time{}
}

// next is the back-off after the start that follows a run ended at t.
func (b Backoff) next(t time.Time) Backoff {
	if b.Delay == 0 || b.expired(t) {
		return Backoff{Delay: backOffInitial, Updated: t}
	}
	return Backoff{Delay: min(2*b.Delay, backOffMax), Updated: t}
}
