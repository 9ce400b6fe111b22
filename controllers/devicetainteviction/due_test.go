package devicetainteviction

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var added = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

func noExecute(key string) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: key, Value: "v", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &added}
}

func tolerates(key string, effect resourcev1.DeviceTaintEffect, seconds ...int64) resourcev1.DeviceToleration {
	t := resourcev1.DeviceToleration{Key: key, Operator: resourcev1.DeviceTolerationOpExists, Effect: effect}
	if len(seconds) > 0 {
		t.TolerationSeconds = &seconds[0]
	}
	return t
}

func TestDeadline(t *testing.T) {
	const execute, schedule = resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule
	taint := func(effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
		out := noExecute("k")
		out.Effect = effect
		return out
	}
	for name, c := range map[string]struct {
		taint       resourcev1.DeviceTaint
		tolerations []resourcev1.DeviceToleration
		after       time.Duration // since the taint was added
		evict       bool
	}{
		"not tolerated":        {taint(execute), nil, 0, true},
		"for ever":             {taint(execute), []resourcev1.DeviceToleration{tolerates("k", execute)}, 0, false},
		"all keys":             {taint(execute), []resourcev1.DeviceToleration{tolerates("", execute)}, 0, false},
		"all effects":          {taint(execute), []resourcev1.DeviceToleration{tolerates("k", "")}, 0, false},
		"all effects, seconds": {taint(execute), []resourcev1.DeviceToleration{tolerates("k", "", 1)}, 0, false},
		"another effect":       {taint(execute), []resourcev1.DeviceToleration{tolerates("k", schedule)}, 0, true},
		"another key":          {taint(execute), []resourcev1.DeviceToleration{tolerates("l", execute)}, 0, true},
		"for a while":          {taint(execute), []resourcev1.DeviceToleration{tolerates("k", execute, 30)}, 30 * time.Second, true},
		"the shortest":         {taint(execute), []resourcev1.DeviceToleration{tolerates("k", execute, 30), tolerates("", execute, 20)}, 20 * time.Second, true},
		"one of two for ever":  {taint(execute), []resourcev1.DeviceToleration{tolerates("k", execute, 30), tolerates("", execute)}, 0, false},
		"less than no time":    {taint(execute), []resourcev1.DeviceToleration{tolerates("k", execute, -5)}, 0, true},
		"only scheduling":      {taint(schedule), nil, 0, false},
		"informational":        {taint(resourcev1.DeviceTaintEffectNone), nil, 0, false},
		"of a later version":   {taint("Later"), nil, 0, false},
	} {
		at, evict := deadline(&c.taint, c.tolerations)
		if evict != c.evict || evict && !at.Equal(added.Add(c.after)) {
			t.Errorf("%s: %v at %s, want %v %s after the taint", name, evict, at, c.evict, c.after)
		}
	}
}

func slice(generation int64, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{}
	s.Spec.Driver, s.Spec.Pool = "d", resourcev1.ResourcePool{Name: "p", Generation: generation, ResourceSliceCount: 1}
	s.Spec.Devices = devices
	return s
}

func device(name string, taints ...resourcev1.DeviceTaint) resourcev1.Device {
	return resourcev1.Device{Name: name, Taints: taints}
}

// rule has effect NoExecute since an hour after the taints of devices.
func rule(name string, s *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
	taint := noExecute("rule")
	taint.TimeAdded = ptr.To(metav1.NewTime(added.Add(time.Hour)))
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid"},
		Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: s, Taint: taint}}
}

func TestDueOf(t *testing.T) {
	all := []*resourcev1.DeviceTaintRule{rule("all", &resourcev1.DeviceTaintSelector{})}
	tainted := device("a", noExecute("k"))
	for name, c := range map[string]struct {
		slices      []*resourcev1.ResourceSlice
		rules       []*resourcev1.DeviceTaintRule
		tolerations []resourcev1.DeviceToleration
		want        time.Duration // since the taint of the device was added
		evict       bool
		ofRule      bool
	}{
		"no slice":                    {nil, nil, nil, 0, false, false},
		"no taint":                    {[]*resourcev1.ResourceSlice{slice(1, device("a"))}, nil, nil, 0, false, false},
		"a taint":                     {[]*resourcev1.ResourceSlice{slice(1, tainted)}, nil, nil, 0, true, false},
		"of another device":           {[]*resourcev1.ResourceSlice{slice(1, device("b", noExecute("k")))}, nil, nil, 0, false, false},
		"of an earlier generation":    {[]*resourcev1.ResourceSlice{slice(1, tainted), slice(2, device("a"))}, nil, nil, 0, false, false},
		"of a later generation":       {[]*resourcev1.ResourceSlice{slice(2, tainted), slice(1, device("a"))}, nil, nil, 0, true, false},
		"of a rule":                   {nil, all, nil, time.Hour, true, true},
		"of a rule for other devices": {nil, []*resourcev1.DeviceTaintRule{rule("b", &resourcev1.DeviceTaintSelector{Device: ptr.To("b")})}, nil, 0, false, false},
		"of both, the earlier one":    {[]*resourcev1.ResourceSlice{slice(1, tainted)}, all, nil, 0, true, true},
		"of both, one tolerated": {[]*resourcev1.ResourceSlice{slice(1, tainted)}, all,
			[]resourcev1.DeviceToleration{tolerates("k", resourcev1.DeviceTaintEffectNoExecute)}, time.Hour, true, true},
		"of both, both tolerated": {[]*resourcev1.ResourceSlice{slice(1, tainted)}, all,
			[]resourcev1.DeviceToleration{tolerates("", resourcev1.DeviceTaintEffectNoExecute)}, 0, false, false},
	} {
		claim := &resourcev1.ResourceClaim{}
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Driver: "other", Pool: "p", Device: "x", Tolerations: c.tolerations}, {Driver: "d", Pool: "p", Device: "a", Tolerations: c.tolerations}}}}
		got := dueOf(claim, func(driver, pool string) []*resourcev1.ResourceSlice {
			if driver == "d" && pool == "p" {
				return c.slices
			}
			return nil
		}, c.rules)
		if got.evict != c.evict || got.evict && !got.at.Equal(added.Add(c.want)) || (len(got.rules) > 0) != c.ofRule {
			t.Errorf("%s: %+v, want %v %s after the taint, because of a rule: %v", name, got, c.evict, c.want, c.ofRule)
		}
	}
}

func TestCondition(t *testing.T) {
	for name, c := range map[string]struct {
		effect          resourcev1.DeviceTaintEffect
		found           survey
		status          metav1.ConditionStatus
		reason, message string
	}{
		"one to go": {resourcev1.DeviceTaintEffectNoExecute, survey{pending: 1, namespaces: 1}, metav1.ConditionTrue, "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace."},
		"some to go, some gone": {resourcev1.DeviceTaintEffectNoExecute, survey{pending: 3, namespaces: 2, evicted: 1}, metav1.ConditionTrue, "PodsPendingEviction",
			"3 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller."},
		"done":    {resourcev1.DeviceTaintEffectNoExecute, survey{evicted: 2}, metav1.ConditionFalse, "Completed", "2 pods evicted since starting the controller."},
		"nothing": {resourcev1.DeviceTaintEffectNoExecute, survey{}, metav1.ConditionFalse, "NotStarted", ""},
		"what if": {resourcev1.DeviceTaintEffectNone, survey{published: 1, allocated: 2, pending: 1, namespaces: 1}, metav1.ConditionFalse, "NoEffect",
			"1 published device selected. 2 allocated devices selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. " +
				"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."},
		"scheduling": {resourcev1.DeviceTaintEffectNoSchedule, survey{}, metav1.ConditionFalse, "OtherEffect", "Eviction only happens for the NoExecute effect."},
	} {
		r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Generation: 4}}
		r.Spec.Taint.Effect = c.effect
		got := c.found.condition(r)
		if got.Type != "EvictionInProgress" || got.Status != c.status || got.Reason != c.reason || got.Message != c.message || got.ObservedGeneration != 4 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
