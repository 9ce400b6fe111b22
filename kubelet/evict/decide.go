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

// State is what is remembered from one look at the machine to the next. The zero
// State is that of a node that nobody has looked at.
type State struct {
	Conditions Conditions
	// crossed says of each threshold, by its place in the list, since when it
	// is crossed; the zero time: it is not.
	crossed []time.Time
	// acting says of each whether the node acts for it, which it does until
	// there is more left than the threshold by what it is to reclaim.
	acting []bool
}

// Verdict is what observations mean.
type Verdict struct {
	// State is what to remember, with the conditions that the node has now.
	State State
	// Met are the thresholds to act for, memory first, then the hard ones.
	Met []Threshold
	// Near says that a hard threshold is not crossed, but half as much again is
	// not left either.
	Near bool
	// Next is how long until the first threshold that is crossed is to be acted
	// for; 0: there is none.
	Next time.Duration
}

// Decide judges observations. A condition comes with the first threshold that is
// crossed, of whatever grace, and stays until its shortage has been over for the
// transition period, so that the node does not flap.
func Decide(now time.Time, thresholds []Threshold, o Observations, had State, transition time.Duration) Verdict {
	v := Verdict{State: State{Conditions: Conditions{}, crossed: make([]time.Time, len(thresholds)), acting: make([]bool, len(thresholds))}}
	for c, at := range had.Conditions {
		if now.Sub(at) < transition {
			v.State.Conditions[c] = at
		}
	}
	for i := range thresholds {
		t := &thresholds[i]
		seen, ok := o[t.Signal]
		if !ok {
			continue
		}
		since, acting := had.of(i)
		if limit := t.limit(seen, acting); seen.Available >= limit {
			v.Near = v.Near || (t.Hard() && seen.Available < limit+limit/2)
			continue
		}
		if since.IsZero() {
			since = now
		}
		v.State.crossed[i] = since
		v.State.Conditions[t.Signal.condition()] = now
		if rest := t.Grace - now.Sub(since); rest <= 0 {
			v.State.acting[i] = true
			v.Met = append(v.Met, *t)
		} else if v.Next == 0 || rest < v.Next {
			v.Next = rest
		}
	}
	// Running out of memory hurts at once, out of disk a little later; of what is short by a hard threshold there is less.
	slices.SortStableFunc(v.Met, func(a, b Threshold) int {
		if (a.Signal == MemoryAvailable) != (b.Signal == MemoryAvailable) {
			return first(a.Signal == MemoryAvailable)
		}
		if a.Hard() != b.Hard() {
			return first(a.Hard())
		}
		return 0
	})
	return v
}

// of is what is remembered of a threshold.
func (s State) of(i int) (crossed time.Time, acting bool) {
	if i >= len(s.crossed) {
		return time.Time{}, false
	}
	return s.crossed[i], s.acting[i]
}

// limit is how much must be left for a threshold not to be crossed.
func (t *Threshold) limit(o Observation, reclaims bool) int64 {
	limit := t.quantity(o).Value()
	if reclaims {
		limit += t.Reclaim.quantity(o).Value()
	}
	return limit
}

// relieved says whether no threshold is crossed, whatever its grace, and there is
// more left by what each is to reclaim.
func relieved(thresholds []Threshold, o Observations) bool {
	return !slices.ContainsFunc(thresholds, func(t Threshold) bool {
		seen, ok := o[t.Signal]
		return ok && seen.Available < t.limit(seen, true)
	})
}
