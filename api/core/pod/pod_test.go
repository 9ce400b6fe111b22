package pod

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// newPod is a valid Pod as the store holds it.
func newPod(change func(p *corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", Generation: 1},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
	if change != nil {
		change(p)
	}
	podspec.DefaultPod(p)
	return p
}

func TestGracefulDelete(t *testing.T) {
	bound := func(p *corev1.Pod) { p.Spec.NodeName = "node" }
	for _, c := range []struct {
		name   string
		change func(p *corev1.Pod)
		asked  *int64
		want   int64
	}{
		{"the Pod's own period", bound, nil, 30},
		{"as asked", bound, ptr.To[int64](5), 5},
		{"at once as asked", bound, ptr.To[int64](0), 0},
		{"negative means one", bound, ptr.To[int64](-7), 1},
		{"negative in the Pod means one", func(p *corev1.Pod) {
			bound(p)
			p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](-7)
		}, nil, 1},
		{"no node, no wait", nil, ptr.To[int64](5), 0},
		{"failed", func(p *corev1.Pod) { bound(p); p.Status.Phase = corev1.PodFailed }, nil, 0},
		{"succeeded", func(p *corev1.Pod) { bound(p); p.Status.Phase = corev1.PodSucceeded }, ptr.To[int64](5), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &metav1.DeleteOptions{GracePeriodSeconds: c.asked}
			if !(kind{}).CheckGracefulDelete(context.Background(), newPod(c.change), o) {
				t.Fatal("not graceful")
			}
			if *o.GracePeriodSeconds != c.want {
				t.Errorf("period is %d, want %d", *o.GracePeriodSeconds, c.want)
			}
		})
	}
	if (kind{}).CheckGracefulDelete(context.Background(), newPod(bound), nil) {
		t.Error("graceful without options")
	}
}

func TestRestartsSayWhen(t *testing.T) {
	at := metav1.NewTime(time.Now().Add(-5*time.Minute - time.Second))
	p := newPod(nil)
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 3,
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: at}}}}
	row, err := (kind{}).Row(p)
	if err != nil {
		t.Fatal(err)
	}
	if row[3] != "3 (5m1s ago)" {
		t.Errorf("restarts are %q", row[3])
	}
}

func TestSelectableFields(t *testing.T) {
	p := newPod(func(p *corev1.Pod) {
		p.Spec.NodeName, p.Spec.HostNetwork = "node", true
		p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	})
	fields := (kind{}).SelectableFields(p)
	for name, want := range map[string]string{
		"spec.nodeName": "node", "spec.hostNetwork": "true", "spec.restartPolicy": "Always", "status.podIP": "10.0.0.1",
		"spec.schedulerName": "default-scheduler", "spec.serviceAccountName": "", "status.phase": "", "status.nominatedNodeName": "",
	} {
		if got, ok := fields[name]; !ok || got != want {
			t.Errorf("%s is %q (%t), want %q", name, got, ok, want)
		}
	}
}

func TestEphemeralContainers(t *testing.T) {
	debug := func(name, image string) corev1.EphemeralContainer {
		return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: image}}
	}
	with := func(list ...corev1.EphemeralContainer) func(p *corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.EphemeralContainers = list }
	}
	target := debug("d", "busybox")
	target.TargetContainerName = "nobody"
	ports := debug("d", "busybox")
	ports.Ports = []corev1.ContainerPort{{ContainerPort: 80}}
	for _, c := range []struct {
		name     string
		old, new func(p *corev1.Pod)
		want     string
	}{
		{"one more", with(debug("a", "busybox")), with(debug("a", "busybox"), debug("b", "busybox")), ""},
		{"in another order", with(debug("a", "busybox"), debug("b", "busybox")), with(debug("b", "busybox"), debug("a", "busybox")), ""},
		{"one less", with(debug("a", "busybox")), with(), `existing ephemeral containers "a" may not be removed`},
		{"another", with(debug("a", "busybox")), with(debug("a", "ubuntu")), `existing ephemeral containers "a" may not be changed`},
		{"a name that is taken", nil, with(debug("c", "busybox")), `spec.ephemeralContainers[0].name: Duplicate value: "c"`},
		{"a target that is not there", nil, with(target), `spec.ephemeralContainers[0].targetContainerName: Not found: "nobody"`},
		{"ports", nil, with(ports), `spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container`},
		{"a static Pod", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = "node"
		}, with(debug("a", "busybox")), "static pods do not support ephemeral containers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, p := newPod(c.old), newPod(c.new)
			// Everything else that is written is left out.
			p.Labels, p.Status.Phase, p.Spec.NodeName = map[string]string{"x": "y"}, corev1.PodFailed, "elsewhere"
			PrepareForEphemeralContainers(p, old)
			if p.Labels != nil || p.Status.Phase != "" || p.Spec.NodeName != old.Spec.NodeName {
				t.Error("something else was written")
			}
			checkErrors(t, ValidateEphemeralContainers(p, old).ToAggregate(), c.want)
			if c.want == "" && p.Generation != 2 {
				t.Errorf("generation is %d", p.Generation)
			}
		})
	}
}

func checkErrors(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func TestResize(t *testing.T) {
	list := func(pairs ...string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return l
	}
	start := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{
			{Name: "i", Image: "nginx", Resources: corev1.ResourceRequirements{Requests: list("cpu", "100m")}},
			{Name: "s", Image: "nginx", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
				Resources: corev1.ResourceRequirements{Requests: list("cpu", "100m")}},
		}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", "100m"), Limits: list("cpu", "200m", "memory", "64Mi")}
		p.Status.QOSClass = corev1.PodQOSBurstable
	}
	for _, c := range []struct {
		name   string
		change func(p *corev1.Pod)
		want   string
	}{
		{"more cpu, less memory", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = list("cpu", "300m", "memory", "32Mi")
			p.Spec.Containers[0].Resources.Requests = list("cpu", "150m", "memory", "32Mi")
		}, ""},
		{"a sidecar", func(p *corev1.Pod) { p.Spec.InitContainers[1].Resources.Requests = list("cpu", "1") }, ""},
		{"an init container", func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests = list("cpu", "1") }, ""},
		{"an init container that would start again", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Resources.Requests = list("cpu", "1")
			p.Spec.InitContainers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}
		}, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"},
		{"the Pod as a whole", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1"), Limits: list("cpu", "2", "memory", "1Gi")}
		}, ""},
		{"huge pages of the Pod as a whole", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1", "hugepages-2Mi", "2Mi"), Limits: list("cpu", "2", "hugepages-2Mi", "2Mi")}
		}, "only cpu and memory resources are mutable at pod-level"},
		{"another resource", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits["ephemeral-storage"] = resource.MustParse("1Gi")
		}, "only cpu and memory resources are mutable"},
		{"a request removed", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("memory", "64Mi"), Limits: list("memory", "64Mi")}
		}, "resource requests cannot be removed"},
		{"a request above its limit", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("500m") },
			"must be less than or equal to cpu limit of 200m"},
		{"another class of service", func(p *corev1.Pod) {
			for i := range p.Spec.InitContainers {
				p.Spec.InitContainers[i].Resources = corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", "1Gi"), Requests: list("cpu", "1", "memory", "1Gi")}
			}
			p.Spec.Containers[0].Resources.Requests = list("cpu", "200m", "memory", "64Mi")
		}, "Pod QOS Class may not change as a result of resizing"},
		{"another container", func(p *corev1.Pod) { p.Spec.Containers[0].Name = "x" }, "containers may not be renamed or reordered on resize"},
		{"a container more", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "x", Image: "nginx"})
		}, "containers may not be added or removed on resize"},
		{"an image as well", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = "other"
			p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("1")
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(start)
			p := old.DeepCopy()
			c.change(p)
			PrepareForResize(p, old)
			checkErrors(t, ValidateResize(p, old).ToAggregate(), c.want)
			if c.want == "" && (p.Generation != 2 || p.Spec.Containers[0].Image != "nginx") {
				t.Errorf("generation is %d, image %s", p.Generation, p.Spec.Containers[0].Image)
			}
		})
	}
	t.Run("a node that cannot", func(t *testing.T) {
		old := newPod(start)
		old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		checkErrors(t, ValidateResize(old.DeepCopy(), old).ToAggregate(), "Pod running on node without support for resize")
	})
}
