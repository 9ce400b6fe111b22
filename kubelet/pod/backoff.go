package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

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
	Image   string    // what ran
}

// backoff is the restart back-off of a container. One of another image starts over, as one of other resources does.
func (in *Input) backoff(c *v1.Container) Backoff {
	if b := in.Backoffs[c.Name]; b.Image == c.Image {
		return b
	}
	return Backoff{Image: c.Image}
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
		return Backoff{Delay: backOffInitial, Updated: t, Image: b.Image}
	}
	return Backoff{Delay: min(2*b.Delay, backOffMax), Updated: t, Image: b.Image}
}
