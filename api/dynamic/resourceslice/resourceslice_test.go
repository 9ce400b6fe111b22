package resourceslice

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// A taint that does not say since when it is there is there since now.
func TestTaintsBeginNow(t *testing.T) {
	real := device.Now
	defer func() { device.Now = real }()
	device.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	s := &resourcev1.ResourceSlice{}
	s.Spec.Devices = []resourcev1.Device{{Name: "a", Taints: []resourcev1.DeviceTaint{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoSchedule}}}}
	kind{}.Default(s)
	if at := s.Spec.Devices[0].Taints[0].TimeAdded; at == nil || !at.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("added at %v", at)
	}
}

// Nodes and drivers are found by field.
func TestSelectableFields(t *testing.T) {
	s := &resourcev1.ResourceSlice{}
	s.Spec.Driver, s.Spec.Pool.Name = "d", "p"
	got := kind{}.SelectableFields(s)
	node, ok := got["spec.nodeName"]
	if got["spec.driver"] != "d" || got["spec.pool.name"] != "p" || !ok || node != "" {
		t.Errorf("got %v", got)
	}
}
