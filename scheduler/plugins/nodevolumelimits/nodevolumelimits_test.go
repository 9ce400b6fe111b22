package nodevolumelimits_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/nodevolumelimits"
)

const driver = "csi.test.io"

// world is a node "n" on which the driver can attach so many volumes; -1 for any number.
func world(limit int32) *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	c.View().CSI.SetNode(csiNode(limit))
	c.View().Storage.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "class"}, Provisioner: driver})
	return c
}

func csiNode(limit int32) *storagev1.CSINode {
	d := storagev1.CSINodeDriver{Name: driver, NodeID: "n"}
	if limit >= 0 {
		d.Allocatable = &storagev1.VolumeNodeResources{Count: &limit}
	}
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{d}}}
}

// claims makes claims of these names; those that are bound have a volume of the same name.
func claims(c *cluster.Cluster, bound bool, names ...string) {
	for _, name := range names {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("class")}}
		if bound {
			claim.Spec.VolumeName = name
			c.View().Storage.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "handle-" + name}}}})
		}
		c.View().Storage.SetClaim(claim)
	}
}

func pod(name string, claims ...string) *framework.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
	for i, claim := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint(i), VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	return framework.NewPod(p)
}

// against is what the rule has against the node, empty for nothing.
func against(c *cluster.Cluster, p *framework.Pod) string {
	view := c.View()
	check, _ := nodevolumelimits.Plugin{}.Prepare(p, view)
	if check == nil {
		return ""
	}
	reasons := check(view.Nodes[0])
	switch {
	case len(reasons) == 0:
		return ""
	case len(reasons) > 1:
		return fmt.Sprintf("several reasons: %v", reasons)
	case reasons[0].Verdict != framework.Busy:
		return "not busy: " + reasons[0].Message
	}
	return reasons[0].Message
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

const tooMany = "node(s) exceed max volume count"

func TestLimit(t *testing.T) {
	c := world(2)
	claims(c, true, "a", "b", "c", "local")
	claims(c, false, "unbound")
	c.View().Storage.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/x"}}}})
	want(t, "two of two", against(c, pod("p", "a", "b")), "")
	want(t, "three of two", against(c, pod("p", "a", "b", "c")), tooMany)
	want(t, "one that is still to be made counts", against(c, pod("p", "a", "b", "unbound")), tooMany)
	want(t, "a local volume does not", against(c, pod("p", "a", "b", "local")), "")
	c.SetPod(pod("there", "a", "b"), "n")
	want(t, "one more than there is room for", against(c, pod("p", "c")), tooMany)
	want(t, "what is attached already", against(c, pod("p", "a", "b")), "")
	want(t, "without claims", against(c, pod("p")), "")
	c.RemovePod("there")
	want(t, "the other Pod has left", against(c, pod("p", "c")), "")
	unlimited := world(-1)
	claims(unlimited, true, "a", "b", "c")
	want(t, "a driver that says nothing of a limit", against(unlimited, pod("p", "a", "b", "c")), "")
}

// A volume that is attached without a Pod takes room until it is detached, but not twice.
func TestAttachments(t *testing.T) {
	c := world(1)
	claims(c, true, "a", "b")
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: storagev1.VolumeAttachmentSpec{
		NodeName: "n", Attacher: driver, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: new("a")}}}
	c.View().CSI.SetAttachment(attachment)
	want(t, "another volume", against(c, pod("p", "b")), tooMany)
	want(t, "the volume itself", against(c, pod("p", "a")), "")
	c.View().CSI.RemoveAttachment(attachment)
	want(t, "detached", against(c, pod("p", "b")), "")
}

func TestDriverThatMustBeThere(t *testing.T) {
	c := world(5)
	claims(c, true, "a")
	c.View().CSI.RemoveNode(csiNode(0))
	want(t, "no driver on the node", against(c, pod("p", "a")), "")
	c.View().CSI.SetDriver(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driver}, Spec: storagev1.CSIDriverSpec{PreventPodSchedulingIfMissing: new(true)}})
	want(t, "one that insists", against(c, pod("p", "a")), driver+" CSI driver is not installed on the node")
	c.View().CSI.SetNode(csiNode(5))
	want(t, "it has come", against(c, pod("p", "a")), "")
}

func TestWhatHelps(t *testing.T) {
	p := pod("p", "a")
	attachment := &storagev1.VolumeAttachment{}
	other := csiNode(1)
	other.Spec.Drivers[0].Name = "other.test.io"
	for what, test := range map[string]struct {
		e    framework.Event
		want bool
	}{
		"a Pod with claims left":        {framework.Event{OldPod: pod("q", "b").Pod}, true},
		"a Pod without claims left":     {framework.Event{OldPod: pod("q").Pod}, false},
		"a Pod came":                    {framework.Event{NewPod: pod("q", "b").Pod}, false},
		"a volume was detached":         {framework.Event{OldAttachment: attachment}, true},
		"a volume was attached":         {framework.Event{NewAttachment: attachment}, false},
		"a node's drivers are known":    {framework.Event{NewCSINode: csiNode(1)}, true},
		"a driver can attach more":      {framework.Event{OldCSINode: csiNode(1), NewCSINode: csiNode(2)}, true},
		"a driver can attach less":      {framework.Event{OldCSINode: csiNode(2), NewCSINode: csiNode(1)}, false},
		"a driver's limit has gone":     {framework.Event{OldCSINode: csiNode(2), NewCSINode: csiNode(-1)}, true},
		"a driver took another's place": {framework.Event{OldCSINode: csiNode(2), NewCSINode: other}, true},
		"a driver began to insist":      {framework.Event{NewCSIDriver: &storagev1.CSIDriver{}}, false},
		"a driver's word has gone":      {framework.Event{OldCSIDriver: &storagev1.CSIDriver{}}, true},
		"a node's labels changed":       {framework.Event{OldNode: &corev1.Node{}, NewNode: &corev1.Node{}}, false},
	} {
		if got := (nodevolumelimits.Plugin{}).Helps(p, test.e); got != test.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
