package scheduler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
)

// reporter is what is said of a driver that reports for how large volumes it has room.
func reporter(reports bool) *storagev1.CSIDriver {
	return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "maker.test.io"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &reports}}
}

// report is of the room on a node; empty sizes are not said, an empty node is none.
func report(name, node, capacity, largest string) *storagev1.CSIStorageCapacity {
	size := func(s string) *resource.Quantity {
		if s == "" {
			return nil
		}
		q := resource.MustParse(s)
		return &q
	}
	r := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, StorageClassName: "roomy",
		Capacity: size(capacity), MaximumVolumeSize: size(largest)}
	if node != "" {
		r.NodeTopology = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: node}}
	}
	return r
}

func TestRoomOfDrivers(t *testing.T) {
	const noRoom = "1 node(s) did not have enough free storage"
	other := report("r", "n1", "9Gi", "")
	other.StorageClassName = "other"
	broken := report("r", "n1", "9Gi", "")
	broken.NodeTopology = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "no such"}}}
	for name, c := range map[string]struct {
		driver  *storagev1.CSIDriver
		reports []*storagev1.CSIStorageCapacity
		want    string
	}{
		"a driver that is not known":       {nil, nil, ""},
		"one that does not report":         {reporter(false), nil, ""},
		"nothing reported":                 {reporter(true), nil, noRoom},
		"room":                             {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "2Gi", "")}, ""},
		"too little":                       {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "1Gi", "")}, noRoom},
		"too little of one":                {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "1Gi", ""), report("s", "n1", "2Gi", "")}, ""},
		"enough, but not for one volume":   {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "9Gi", "1Gi")}, noRoom},
		"it says no size":                  {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "", "")}, noRoom},
		"elsewhere":                        {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n2", "9Gi", "")}, noRoom},
		"nowhere":                          {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "", "9Gi", "")}, noRoom},
		"of another class":                 {reporter(true), []*storagev1.CSIStorageCapacity{other}, noRoom},
		"of nodes that cannot be told":     {reporter(true), []*storagev1.CSIStorageCapacity{broken}, noRoom},
		"what was reported counts no more": {reporter(true), []*storagev1.CSIStorageCapacity{report("r", "n1", "9Gi", ""), report("r", "n1", "1Gi", "")}, noRoom},
	} {
		k := cluster.New(func(string) map[string]string { return nil })
		k.SetNode(node("n1", map[string]string{corev1.LabelHostname: "n1"}))
		k.View().Storage.SetClass(class("roomy", "maker.test.io"))
		k.View().Storage.SetClaim(claim("c", "roomy", "2Gi"))
		if c.driver != nil {
			k.View().CSI.SetDriver(c.driver)
		}
		for _, r := range c.reports {
			k.View().CSI.SetCapacity(r)
		}
		decide := func() string {
			d := cycle.New(plugins.All()).Decide(framework.NewPod(withClaims(pod("p", ""), "c")), k.View())
			got, _ := strings.CutPrefix(d.Short, "0/1 nodes are available: ")
			return strings.TrimSuffix(got, ".")
		}
		if got := decide(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		for _, r := range c.reports {
			k.View().CSI.RemoveCapacity(r)
		}
		if got := decide(); framework.ReportsRoom(c.driver) && got != noRoom {
			t.Errorf("%s, and gone: %q", name, got)
		}
	}
}

func TestMoreRoomHelps(t *testing.T) {
	p := framework.NewPod(withClaims(pod("p", ""), "c"))
	for name, c := range map[string]struct {
		event framework.Event
		want  bool
	}{
		"a report":                  {framework.Event{NewCapacity: report("r", "n1", "1Gi", "")}, true},
		"one that says nothing":     {framework.Event{NewCapacity: report("r", "n1", "", "")}, false},
		"one that went":             {framework.Event{OldCapacity: report("r", "n1", "1Gi", "")}, false},
		"more room":                 {framework.Event{OldCapacity: report("r", "n1", "1Gi", ""), NewCapacity: report("r", "n1", "2Gi", "")}, true},
		"less room":                 {framework.Event{OldCapacity: report("r", "n1", "2Gi", ""), NewCapacity: report("r", "n1", "1Gi", "")}, false},
		"room that one cannot have": {framework.Event{OldCapacity: report("r", "n1", "2Gi", "1Gi"), NewCapacity: report("r", "n1", "3Gi", "1Gi")}, false},
		"room at last":              {framework.Event{OldCapacity: report("r", "n1", "", ""), NewCapacity: report("r", "n1", "1Gi", "")}, true},
		"a driver tells no more":    {framework.Event{OldCSIDriver: reporter(true), NewCSIDriver: reporter(false)}, true},
		"a driver that tells went":  {framework.Event{OldCSIDriver: reporter(true)}, true},
		"a driver tells now":        {framework.Event{OldCSIDriver: reporter(false), NewCSIDriver: reporter(true)}, false},
	} {
		if got := (volumebinding.Plugin{}).Helps(p, c.event); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The first driver that reports has its reports followed; a Pod goes where there is room, when there is.
func TestWaitsForRoom(t *testing.T) {
	w := startWithStorage(t, 0, "n1", "n2")
	must(t)(w.Client.StorageV1().StorageClasses().Create(t.Context(), class("roomy", "maker.test.io"), metav1.CreateOptions{}))
	must(t)(w.Client.StorageV1().CSIDrivers().Create(t.Context(), reporter(true), metav1.CreateOptions{}))
	reports := w.Client.StorageV1().CSIStorageCapacities("default")
	must(t)(reports.Create(t.Context(), report("n1", "n1", "1Gi", ""), metav1.CreateOptions{}))
	second, err := reports.Create(t.Context(), report("n2", "n2", "1Gi", ""), metav1.CreateOptions{})
	must(t)(second, err)
	w.putClaim(t, claim("data", "roomy", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.wantEvent(t, "0/2 nodes are available: 2 node(s) did not have enough free storage.")
	second.Capacity = report("", "", "5Gi", "").Capacity
	must(t)(reports.Update(t.Context(), second, metav1.UpdateOptions{}))
	if got := w.awaitSelected(t, "data"); got != "n2" {
		t.Errorf("the claim is for %s", got)
	}
}
