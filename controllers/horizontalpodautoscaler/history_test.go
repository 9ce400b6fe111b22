package horizontalpodautoscaler

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// step is one look: when, what there is and what metrics want, and what comes of it.
type step struct {
	after            time.Duration
	current, desired int32
	want             int32
	able, limited    string
}

func follow(t *testing.T, spec *autoscalingv2.HorizontalPodAutoscalerSpec, steps []step) {
	t.Helper()
	h := &history{}
	for i, s := range steps {
		now := noon.Add(s.after)
		h.begin(s.current, now)
		o := h.settle(spec, s.current, s.desired, 1, now)
		if o.replicas != s.want || o.able.reason != s.able || o.limited.reason != s.limited {
			t.Errorf("step %d: %d, %s, %s", i, o.replicas, o.able.reason, o.limited.reason)
		}
		if o.limited.ok == (s.limited == "DesiredWithinRange") || !o.able.ok {
			t.Errorf("step %d: limited is %v, able is %v", i, o.limited.ok, o.able.ok)
		}
		if o.replicas != s.current {
			h.record(spec.Behavior, s.current, o.replicas, now)
		}
	}
}

const ready, downStable, upStable, fine = "ReadyForNewScale", "ScaleDownStabilized", "ScaleUpStabilized", "DesiredWithinRange"

func TestWithoutRules(t *testing.T) {
	follow(t, &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 10}, []step{
		{0, 1, 3, 3, ready, fine},
		{15 * time.Second, 3, 9, 6, ready, "ScaleUpLimit"},
		{30 * time.Second, 6, 20, 10, ready, "TooManyReplicas"},
		{45 * time.Second, 10, 2, 10, downStable, "TooManyReplicas"}, // 20 was recommended
		{5*time.Minute + 29*time.Second, 10, 4, 10, downStable, "TooManyReplicas"},
		{5*time.Minute + 31*time.Second, 10, 3, 4, downStable, fine},
		{11 * time.Minute, 4, 0, 1, ready, "TooFewReplicas"},
	})
}

func rules(window int32, choice autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choice, Policies: policies}
}

func policy(of autoscalingv2.HPAScalingPolicyType, value, period int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: of, Value: value, PeriodSeconds: period}
}

// Policies count what was done in their period, whichever way, and the greater or lesser change is chosen.
func TestRates(t *testing.T) {
	two, half := policy(autoscalingv2.PodsScalingPolicy, 2, 60), policy(autoscalingv2.PercentScalingPolicy, 50, 60)
	spec := func(up, down *autoscalingv2.HPAScalingRules) *autoscalingv2.HorizontalPodAutoscalerSpec {
		return &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}}
	}
	down := rules(0, autoscalingv2.MaxChangePolicySelect, policy(autoscalingv2.PercentScalingPolicy, 100, 15))
	up := rules(0, autoscalingv2.MaxChangePolicySelect, policy(autoscalingv2.PercentScalingPolicy, 900, 15))
	for name, c := range map[string]struct {
		spec  *autoscalingv2.HorizontalPodAutoscalerSpec
		steps []step
	}{
		"the most up": {spec(rules(0, autoscalingv2.MaxChangePolicySelect, two, half), down), []step{
			{0, 10, 50, 15, ready, "ScaleUpLimit"},
			{15 * time.Second, 15, 50, 15, ready, "ScaleUpLimit"}, // the minute's change is made
			{61 * time.Second, 15, 50, 23, ready, "ScaleUpLimit"}, // rounded up
		}},
		"the least up": {spec(rules(0, autoscalingv2.MinChangePolicySelect, half, two), down), []step{
			{0, 10, 50, 12, ready, "ScaleUpLimit"}, {61 * time.Second, 1, 50, 2, ready, "ScaleUpLimit"},
		}},
		"the most down": {spec(up, rules(0, autoscalingv2.MaxChangePolicySelect, two, half)), []step{
			{0, 10, 1, 5, ready, "ScaleDownLimit"}, {15 * time.Second, 5, 1, 5, ready, "ScaleDownLimit"}, {61 * time.Second, 5, 1, 2, ready, "ScaleDownLimit"},
		}},
		"the least down": {spec(up, rules(0, autoscalingv2.MinChangePolicySelect, two, half)), []step{{0, 10, 1, 8, ready, "ScaleDownLimit"}}},
		"not up":         {spec(rules(0, autoscalingv2.DisabledPolicySelect, two), down), []step{{0, 3, 9, 3, ready, "ScaleUpLimit"}}},
		"not down":       {spec(up, rules(0, autoscalingv2.DisabledPolicySelect, two)), []step{{0, 3, 1, 3, ready, "ScaleDownLimit"}}},
		"bounds":         {spec(up, down), []step{{0, 50, 200, 100, ready, "TooManyReplicas"}, {time.Second, 9, 0, 1, ready, "TooFewReplicas"}, {time.Minute, 2, 3, 3, ready, fine}}},
		"up and down": {spec(rules(0, autoscalingv2.MaxChangePolicySelect, two), down), []step{
			{0, 10, 12, 12, ready, fine}, {time.Second, 12, 8, 8, ready, fine}, {2 * time.Second, 8, 20, 12, ready, "ScaleUpLimit"},
		}},
	} {
		t.Run(name, func(t *testing.T) { follow(t, c.spec, c.steps) })
	}
}

// Within its window the lowest recommendation holds the target back, or the highest keeps it up.
func TestWindows(t *testing.T) {
	all := policy(autoscalingv2.PercentScalingPolicy, 900, 15)
	spec := &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp:   rules(60, autoscalingv2.MaxChangePolicySelect, all),
		ScaleDown: rules(0, autoscalingv2.MaxChangePolicySelect, policy(autoscalingv2.PercentScalingPolicy, 100, 15)),
	}}
	spec.Behavior.ScaleDown.StabilizationWindowSeconds = ptr.To[int32](120)
	follow(t, spec, []step{
		{0, 4, 8, 4, upStable, fine},
		{61 * time.Second, 4, 6, 6, ready, fine},
		{90 * time.Second, 6, 2, 6, downStable, fine},  // 8 is in its window
		{125 * time.Second, 6, 2, 6, downStable, fine}, // 6 still is
		{185 * time.Second, 6, 1, 2, downStable, fine}, // from now on 2
		{400 * time.Second, 2, 1, 1, ready, fine},      // all others are out of it
		{405 * time.Second, 1, 9, 1, upStable, fine},   // the 1 holds it back
		{10000 * time.Second, 1, 200, 10, ready, "ScaleUpLimit"},
	})
	spec.Behavior.ScaleDown.StabilizationWindowSeconds = nil // the controller's own, five minutes
	follow(t, spec, []step{{0, 4, 1, 4, downStable, fine}, {299 * time.Second, 4, 1, 4, downStable, fine}, {301 * time.Second, 4, 1, 1, ready, fine}})
}

// What is not counted any more is not kept.
func TestHistoryIsBounded(t *testing.T) {
	h := &history{}
	spec := &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp:   rules(0, autoscalingv2.MaxChangePolicySelect, policy(autoscalingv2.PodsScalingPolicy, 1, 30)),
		ScaleDown: rules(60, autoscalingv2.MaxChangePolicySelect, policy(autoscalingv2.PodsScalingPolicy, 1, 30)),
	}}
	for i := range 1000 {
		now := noon.Add(time.Duration(i) * period)
		h.settle(spec, 5, 5, 1, now)
		h.record(spec.Behavior, 5, 6, now)
		h.record(spec.Behavior, 6, 5, now)
	}
	if len(h.recommendations) > 6 || len(h.ups) > 4 || len(h.downs) > 4 {
		t.Errorf("%d recommendations, %d and %d changes", len(h.recommendations), len(h.ups), len(h.downs))
	}
}
