package horizontalpodautoscaler

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// history is what is remembered of an autoscaler from one look to the next. It is lost with the process, and begins anew with how many
// replicas there are: for the length of its window nothing is taken away then.
type history struct {
	uid             types.UID
	recommendations []recommendation
	// ups and downs are by how many replicas the target was changed.
	ups, downs []change
	// selector is that of the target when last seen; nil before.
	selector labels.Selector
}

type recommendation struct {
	replicas int32
	at       time.Time
}

type change struct {
	by int32
	at time.Time
}

// verdict is what becomes of a condition.
type verdict struct {
	ok              bool
	reason, message string
}

// outcome is how many replicas there are to be, and what the conditions say of that.
type outcome struct {
	replicas      int32
	able, limited verdict
}

// begin remembers how many replicas there were at first.
func (h *history) begin(current int32, now time.Time) {
	if h.recommendations == nil {
		h.recommendations = []recommendation{{current, now}}
	}
}

// record remembers that the target was changed, for as long as a policy counts it.
func (h *history) record(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if behavior == nil {
		h.ups, h.downs = nil, nil
		return
	}
	if to > from {
		h.ups = append(since(h.ups, now.Add(-longest(behavior.ScaleUp))), change{to - from, now})
	} else {
		h.downs = append(since(h.downs, now.Add(-longest(behavior.ScaleDown))), change{from - to, now})
	}
}

func since(changes []change, cutoff time.Time) []change {
	for len(changes) > 0 && changes[0].at.Before(cutoff) {
		changes = changes[1:]
	}
	return changes
}

// longest is the longest time that one of the policies counts over.
func longest(rules *autoscalingv2.HPAScalingRules) time.Duration {
	var period int32
	for _, p := range rules.Policies {
		period = max(period, p.PeriodSeconds)
	}
	return time.Duration(period) * time.Second
}

// window is for how long recommendations count against a change; fallback where the rules do not say.
func window(rules *autoscalingv2.HPAScalingRules, fallback time.Duration) time.Duration {
	if rules.StabilizationWindowSeconds == nil {
		return fallback
	}
	return time.Duration(*rules.StabilizationWindowSeconds) * time.Second
}

// settle turns what metrics recommend into what is done: held back by what they recommended of late, by how fast the target may
// change, and by its bounds.
func (h *history) settle(spec *autoscalingv2.HorizontalPodAutoscalerSpec, current, desired, least int32, now time.Time) outcome {
	var o outcome
	var stable int32
	if spec.Behavior == nil {
		stable = h.highest(desired, now)
		o.able = verdict{true, "ScaleDownStabilized", messageHigher}
	} else {
		stable = h.within(spec.Behavior, current, desired, now)
		o.able = verdict{true, "ScaleDownStabilized", messageHigher}
		if desired >= current {
			o.able = verdict{true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
		}
	}
	if stable == desired {
		o.able = verdict{true, "ReadyForNewScale", "recommended size matches current size"}
	}
	if spec.Behavior == nil {
		o.replicas, o.limited = bounded(current, stable, least, spec.MaxReplicas)
	} else {
		o.replicas, o.limited = h.paced(spec, current, stable, least, now)
	}
	o.limited.ok = o.replicas != stable
	return o
}

const messageHigher = "recent recommendations were higher than current one, applying the highest recent recommendation"

// highest remembers desired and returns the highest recommendation of the default window.
func (h *history) highest(desired int32, now time.Time) int32 {
	h.forget(now.Add(-downscaleStabilization))
	h.recommendations = append(h.recommendations, recommendation{desired, now})
	for _, r := range h.recommendations {
		desired = max(desired, r.replicas)
	}
	return desired
}

// within remembers desired and returns what is nearest to current between the lowest recommendation of one window and the highest of
// the other.
func (h *history) within(b *autoscalingv2.HorizontalPodAutoscalerBehavior, current, desired int32, now time.Time) int32 {
	up, down := window(b.ScaleUp, 0), window(b.ScaleDown, downscaleStabilization)
	h.forget(now.Add(-max(up, down)))
	lowest, highest := desired, desired
	for _, r := range h.recommendations {
		if r.at.After(now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	h.recommendations = append(h.recommendations, recommendation{desired, now})
	return min(max(current, lowest), highest)
}

func (h *history) forget(cutoff time.Time) {
	for len(h.recommendations) > 0 && h.recommendations[0].at.Before(cutoff) {
		h.recommendations = h.recommendations[1:]
	}
}

var (
	inRange = verdict{false, "DesiredWithinRange", "the desired count is within the acceptable range"}
	tooMany = verdict{true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	tooFew  = verdict{true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	tooFast = verdict{true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	tooSoon = verdict{true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
)

// bounded holds a target without rules in its bounds, and to twice what it is at once, or four.
func bounded(current, desired, least, most int32) (int32, verdict) {
	limit, why := most, tooMany
	if fast := max(2*int64(current), 4); int64(most) > fast {
		limit, why = int32(fast), tooFast
	}
	switch {
	case desired < least:
		return least, tooFew
	case desired > limit:
		return limit, why
	}
	return desired, inRange
}

// paced holds a target with rules to them and in its bounds.
func (h *history) paced(spec *autoscalingv2.HorizontalPodAutoscalerSpec, current, desired, least int32, now time.Time) (int32, verdict) {
	switch {
	case desired > current:
		limit, why := spec.MaxReplicas, tooMany
		if fast := max(h.limit(spec.Behavior.ScaleUp, current, now, 1), current); limit > fast {
			limit, why = fast, tooFast
		}
		if desired > limit {
			return limit, why
		}
	case desired < current:
		limit, why := least, tooFew
		if slow := min(h.limit(spec.Behavior.ScaleDown, current, now, -1), current); limit < slow {
			limit, why = slow, tooSoon
		}
		if desired < limit {
			return limit, why
		}
	}
	return desired, inRange
}

// limit returns how far the policies let the target go, up or down (sign), from what it was when their periods began.
func (h *history) limit(rules *autoscalingv2.HPAScalingRules, current int32, now time.Time, sign int64) int32 {
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var best int64
	for i, p := range rules.Policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		start := int64(current) - within(h.ups, period, now) + within(h.downs, period, now)
		reach := start + sign*int64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			share := float64(start) * (1 + float64(sign)*float64(p.Value)/100)
			if sign > 0 {
				share = math.Ceil(share) // or one would stay one for ever
			}
			reach = int64(share)
		}
		// The farthest is the greatest change, whichever way.
		farther := sign*reach > sign*best
		if i == 0 || farther == (*rules.SelectPolicy != autoscalingv2.MinChangePolicySelect) {
			best = reach
		}
	}
	return int32(min(max(best, math.MinInt32), math.MaxInt32))
}

// within adds up the changes of the last period.
func within(changes []change, period time.Duration, now time.Time) (sum int64) {
	for _, c := range changes {
		if c.at.After(now.Add(-period)) {
			sum += int64(c.by)
		}
	}
	return sum
}
