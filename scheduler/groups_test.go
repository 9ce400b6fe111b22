package scheduler

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Pods of one Service or owner are spread though the node that has one of them has more room.
func TestGroupsAreSpread(t *testing.T) {
	web := map[string]string{"app": "web"}
	meta := metav1.ObjectMeta{Name: "web", Namespace: "default"}
	selector := &metav1.LabelSelector{MatchLabels: web}
	for kind, test := range map[string]struct {
		apiVersion string
		group      runtime.Object
		want       string
	}{
		"nobody":                {"apps/v1", nil, "web-2 roomy"},
		"Service":               {"v1", &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: web}}, "web-2 full"},
		"ReplicationController": {"v1", &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Selector: web}}, "web-2 full"},
		"ReplicaSet":            {"apps/v1", &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector}}, "web-2 full"},
		"StatefulSet":           {"apps/v1", &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector}}, "web-2 full"},
	} {
		t.Run(kind, func(t *testing.T) {
			member := func(name, node string) *corev1.Pod {
				p := pod(name, "100m")
				p.Labels, p.Spec.NodeName = web, node
				p.OwnerReferences = []metav1.OwnerReference{{APIVersion: test.apiVersion, Kind: kind, Name: "web", Controller: new(true)}}
				return p
			}
			other := pod("other", "1")
			other.Spec.NodeName = "full"
			objects := []runtime.Object{
				node("roomy", map[string]string{corev1.LabelHostname: "roomy"}), node("full", map[string]string{corev1.LabelHostname: "full"}),
				other, member("web-1", "roomy"), member("web-2", ""),
			}
			if test.group != nil {
				objects = append(objects, test.group)
			}
			start(t, objects...).wantBound(t, test.want)
		})
	}
}

// A Pod whose volume a node's driver cannot attach waits until it can.
func TestWaitsForRoomForVolumes(t *testing.T) {
	csiNode := func(limit int32) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: "csi.test.io", NodeID: "n1", Allocatable: &storagev1.VolumeNodeResources{Count: &limit}}}}}
	}
	v := volumeOn("v", "", "1Gi", "")
	v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.test.io", VolumeHandle: "h"}}
	attached := v.DeepCopy()
	attached.Name, attached.Spec.CSI.VolumeHandle = "attached", "a"
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: storagev1.VolumeAttachmentSpec{
		NodeName: "n1", Attacher: "csi.test.io", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: new("attached")}}}
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.test.io"}, Spec: storagev1.CSIDriverSpec{PreventPodSchedulingIfMissing: new(true)}}
	h := start(t, node("n1", nil), v, attached, attachment, driver, bound(claim("data", "", "1Gi"), "v"), withClaims(pod("p", ""), "data"))
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 csi.test.io CSI driver is not installed on the node. "+
		"no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	if _, err := h.client.StorageV1().CSINodes().Create(t.Context(), csiNode(1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 node(s) exceed max volume count. "+
		"no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	if err := h.client.StorageV1().VolumeAttachments().Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "p n1")
}
