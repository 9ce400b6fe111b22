package evict

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Conditions are the pressures a node can have, each with when its shortage was
// last observed.
type Conditions map[v1.NodeConditionType]time.Time

// List names the conditions, in a fixed order.
func (c Conditions) List() []v1.NodeConditionType {
	out := make([]v1.NodeConditionType, 0, len(c))
	for t := range c {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// Verdict is what observations mean.
type Verdict struct {
	// Conditions are those that the node has now.
	Conditions Conditions
	// Met are the thresholds that are crossed, memory first.
	Met []Threshold
	// Near says that a threshold is not crossed, but half as much again is not
	// left either.
	Near bool
}

// Decide judges observations. A condition that was true stays so until its
// shortage has been over for the transition period, so that the node does not
// flap.
func Decide(now time.Time, thresholds []Threshold, o Observations, had Conditions, transition time.Duration) Verdict {
	v := Verdict{Conditions: Conditions{}}
	for c, at := range had {
		if now.Sub(at) < transition {
			v.Conditions[c] = at
		}
	}
	for _, t := range thresholds {
		seen, ok := o[t.Signal]
		if !ok {
			continue
		}
		limit := t.quantity(seen).Value()
		switch {
		case seen.Available < limit:
			v.Met = append(v.Met, t)
			v.Conditions[t.Signal.condition()] = now
		case seen.Available < limit+limit/2:
			v.Near = true
		}
	}
	// Running out of memory hurts at once, out of disk a little later.
	slices.SortStableFunc(v.Met, func(a, b Threshold) int {
		switch {
		case a.Signal == b.Signal:
			return 0
		case a.Signal == MemoryAvailable:
			return -1
		case b.Signal == MemoryAvailable:
			return 1
		}
		return 0
	})
	return v
}
