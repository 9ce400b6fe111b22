package framework

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"
)

// demanding is a Pod that has something of all that NewPod works out.
func demanding() *corev1.Pod {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "1", Generation: 1, Labels: map[string]string{"app": "a", "hash": "1"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Ports: []corev1.ContainerPort{{HostPort: 80}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}},
			Affinity: &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{TopologyKey: "zone", LabelSelector: selector, MatchLabelKeys: []string{"hash"}},
			}}},
		},
	}
}

// What a Pod requests is what Kubernetes' own helper says of its spec and status, also where the status is not gone through.
func TestRequestsCountTheStatus(t *testing.T) {
	given := []corev1.ContainerStatus{{Name: "c", AllocatedResources: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}}
	infeasible := []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible}}
	for name, change := range map[string]func(*corev1.Pod){
		"new":                func(*corev1.Pod) {},
		"given more":         func(p *corev1.Pod) { p.Status.ContainerStatuses = given },
		"denied a resize":    func(p *corev1.Pod) { p.Status.Conditions = infeasible },
		"denied, given more": func(p *corev1.Pod) { p.Status.Conditions, p.Status.ContainerStatuses = infeasible, given },
		"of resources of its own": func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
		},
		"with others before": func(p *corev1.Pod) {
			sidecar, always := *p.Spec.Containers[0].DeepCopy(), corev1.ContainerRestartPolicyAlways
			sidecar.Name, sidecar.RestartPolicy = "s", &always
			first := *p.Spec.Containers[0].DeepCopy()
			first.Name, first.Resources.Requests = "i", corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("7")}
			p.Spec.InitContainers = []corev1.Container{sidecar, first}
			p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := demanding()
			change(p)
			want := ResourcesOf(helpers.PodRequests(p, helpers.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}))
			if got := NewPod(p).Requests; !reflect.DeepEqual(got, want) {
				t.Errorf("requests %v, want %v", got, want)
			}
		})
	}
}

// Whatever a Pod becomes, Newer says of it what NewPod would; and a binding, which changes nothing of that, does not have it worked
// out again.
func TestNewerIsNewPod(t *testing.T) {
	changes := map[string]func(*corev1.Pod){
		"bound":    func(p *corev1.Pod) { p.Spec.NodeName = "node" },
		"labelled": func(p *corev1.Pod) { p.Labels = map[string]string{"app": "a", "hash": "2"} },
		"resized": func(p *corev1.Pod) {
			p.Generation++
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		},
		"another": func(p *corev1.Pod) { p.UID, p.Spec.Containers = "2", nil },
		"without a generation": func(p *corev1.Pod) {
			p.Generation = 0
			p.Spec.Containers[0].Ports = nil
		},
		"given more than it asks for": func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}}
		},
		"of resources of its own": func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
			p.Generation++
			p.Status.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5")}}
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			former, after := demanding(), demanding()
			change(after)
			former.Generation = min(former.Generation, after.Generation)
			before := NewPod(former)
			got, want := before.Newer(after), NewPod(after)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if kept := got.Terms == before.Terms; kept != (name == "bound") {
				t.Errorf("what was known is used again: %t", kept)
			}
			// And back: what the status said of the former state must not stay.
			if got, want := NewPod(after).Newer(before.Pod), NewPod(before.Pod); !reflect.DeepEqual(got, want) {
				t.Errorf("back: got %+v\nwant %+v", got, want)
			}
		})
	}
	if got := (*Pod)(nil).Newer(demanding()); !reflect.DeepEqual(got, NewPod(demanding())) {
		t.Errorf("a Pod that was not known: got %+v", got)
	}
}
