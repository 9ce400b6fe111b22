package devicetaint

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"
)

func rule(s *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: s, Taint: resourcev1.DeviceTaint{Key: "rule", Effect: resourcev1.DeviceTaintEffectNoSchedule}}}
}

func TestSelects(t *testing.T) {
	for name, c := range map[string]struct {
		selector *resourcev1.DeviceTaintSelector
		want     bool
	}{
		"no selector":    {nil, false},
		"all":            {&resourcev1.DeviceTaintSelector{}, true},
		"driver":         {&resourcev1.DeviceTaintSelector{Driver: ptr.To("d")}, true},
		"other driver":   {&resourcev1.DeviceTaintSelector{Driver: ptr.To("e")}, false},
		"pool":           {&resourcev1.DeviceTaintSelector{Pool: ptr.To("p")}, true},
		"other pool":     {&resourcev1.DeviceTaintSelector{Driver: ptr.To("d"), Pool: ptr.To("q")}, false},
		"device":         {&resourcev1.DeviceTaintSelector{Device: ptr.To("a")}, true},
		"another device": {&resourcev1.DeviceTaintSelector{Driver: ptr.To("d"), Pool: ptr.To("p"), Device: ptr.To("b")}, false},
	} {
		if got := Selects(rule(c.selector), "d", "p", "a"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The slice itself is what informers share.
func TestApplyLeavesTheSliceAlone(t *testing.T) {
	own := resourcev1.DeviceTaint{Key: "own"}
	s := &resourcev1.ResourceSlice{}
	s.Spec.Driver, s.Spec.Pool.Name = "d", "p"
	s.Spec.Devices = []resourcev1.Device{{Name: "a", Taints: []resourcev1.DeviceTaint{own}}, {Name: "b"}}
	if got := Apply(s, []*resourcev1.DeviceTaintRule{rule(nil), rule(&resourcev1.DeviceTaintSelector{Device: ptr.To("c")})}); got != s {
		t.Error("a slice that no rule means was copied")
	}
	got := Apply(s, []*resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{Device: ptr.To("a")}), rule(&resourcev1.DeviceTaintSelector{})})
	if a, b := got.Spec.Devices[0].Taints, got.Spec.Devices[1].Taints; len(a) != 3 || a[0] != own || len(b) != 1 || b[0].Key != "rule" {
		t.Errorf("got %v and %v", a, b)
	}
	if len(s.Spec.Devices[0].Taints) != 1 || len(s.Spec.Devices[1].Taints) != 0 {
		t.Errorf("the slice was changed: %v", s.Spec.Devices)
	}
}
