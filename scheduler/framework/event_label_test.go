package framework

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Events have the names by which dashboards know them.
func TestEventLabels(t *testing.T) {
	labelled := metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}
	tainted := corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}}
	done := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	for want, e := range map[string]Event{
		"NodeAdd":                               {NewNode: &corev1.Node{}},
		"NodeDelete":                            {OldNode: &corev1.Node{}},
		"NodeUpdate":                            {OldNode: &corev1.Node{}, NewNode: &corev1.Node{}},
		"NodeUpdateNodeLabel":                   {OldNode: &corev1.Node{}, NewNode: &corev1.Node{ObjectMeta: labelled}},
		"NodeUpdateNodeTaint":                   {OldNode: &corev1.Node{Spec: tainted}, NewNode: &corev1.Node{}},
		"NodeUpdateNodeAnnotation":              {OldNode: &corev1.Node{}, NewNode: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: labelled.Labels}}},
		"NodeUpdateNodeDeclaredFeature":         {OldNode: &corev1.Node{}, NewNode: &corev1.Node{Status: corev1.NodeStatus{DeclaredFeatures: []string{"f"}}}},
		"NodeUpdateNodeCondition":               {OldNode: &corev1.Node{}, NewNode: &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady}}}}},
		"AssignedPodAdd":                        {NewPod: &corev1.Pod{}},
		"AssignedPodDelete":                     {OldPod: &corev1.Pod{}, NewPod: done},
		"AssignedPodUpdate":                     {OldPod: &corev1.Pod{}, NewPod: &corev1.Pod{}},
		"AssignedPodUpdatePodLabel":             {OldPod: &corev1.Pod{}, NewPod: &corev1.Pod{ObjectMeta: labelled}},
		"AssignedPodUpdatePodScaleDown":         {OldPod: &corev1.Pod{}, NewPod: &corev1.Pod{}, OldRequests: Resources{MilliCPU: 2}, NewRequests: Resources{MilliCPU: 1}},
		"NodeUpdateNodeAllocatable":             {OldNode: &corev1.Node{}, NewNode: &corev1.Node{Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1")}}}},
		"NamespaceUpdate":                       {OldNamespace: &corev1.Namespace{}, NewNamespace: &corev1.Namespace{}},
		"PersistentVolumeClaimAdd":              {NewClaim: &corev1.PersistentVolumeClaim{}},
		"PersistentVolumeUpdate":                {OldVolume: &corev1.PersistentVolume{}, NewVolume: &corev1.PersistentVolume{}},
		"StorageClassAdd":                       {NewClass: &storagev1.StorageClass{}},
		"storage.k8s.io/CSINodeDelete":          {OldCSINode: &storagev1.CSINode{}},
		"storage.k8s.io/CSIDriverUpdate":        {OldCSIDriver: &storagev1.CSIDriver{}, NewCSIDriver: &storagev1.CSIDriver{}},
		"storage.k8s.io/VolumeAttachmentDelete": {OldAttachment: &storagev1.VolumeAttachment{}},
		"storage.k8s.io/CSIStorageCapacityAdd":  {NewCapacity: &storagev1.CSIStorageCapacity{}},
		"resource.k8s.io/ResourceClaimAdd":      {Devices: &DeviceEvent{NewClaim: &resourcev1.ResourceClaim{}}},
		"resource.k8s.io/DeviceClassUpdate":     {Devices: &DeviceEvent{OldClass: &resourcev1.DeviceClass{}, NewClass: &resourcev1.DeviceClass{}}},
		"resource.k8s.io/ResourceSliceDelete":   {Devices: &DeviceEvent{OldSlice: &resourcev1.ResourceSlice{}}},
		"resource.k8s.io/ResourceSliceUpdate":   {Devices: &DeviceEvent{NewRule: &resourcev1.DeviceTaintRule{}}},
		"ForceActivate":                         {Devices: &DeviceEvent{}},
	} {
		if got := e.Label(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	cordoned := Event{OldNode: &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, NewNode: &corev1.Node{ObjectMeta: labelled}}
	if got := cordoned.Label(); got != "NodeUpdateNodeTaint" {
		t.Errorf("a node that takes Pods again is a change of its taints, before others: %s", got)
	}
	gated := &corev1.Pod{Spec: corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "g"}}}}
	for want, pair := range map[string][2]*corev1.Pod{
		"UnschedulablePodAdd":                                {nil, {}},
		"UnschedulablePodUpdate":                             {{}, {}},
		"UnschedulablePodUpdatePodLabel":                     {{}, {ObjectMeta: labelled}},
		"UnschedulablePodUpdatePodSchedulingGatesEliminated": {gated, {}},
		"UnschedulablePodUpdatePodToleration":                {{}, {Spec: corev1.PodSpec{Tolerations: make([]corev1.Toleration, 1)}}},
		"UnschedulablePodUpdatePodGeneratedResourceClaim":    {{}, {Status: corev1.PodStatus{ResourceClaimStatuses: make([]corev1.PodResourceClaimStatus, 1)}}},
	} {
		if got := PodChange(pair[0], pair[1]); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
