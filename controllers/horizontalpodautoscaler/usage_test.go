package horizontalpodautoscaler

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var noon = time.Unix(1_000_000, 0)

// pod is one that has been ready for an hour, changed by change.
func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("1")}}}}
	p.Status.Phase = corev1.PodRunning
	p.Status.StartTime = ptr.To(metav1.NewTime(noon.Add(-time.Hour)))
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon.Add(-time.Hour))}}
	if change != nil {
		change(p)
	}
	return p
}

// started makes a Pod start and change its readiness so long before noon.
func started(start, changed time.Duration, ready corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime.Time = noon.Add(-start)
		p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime.Time = ready, noon.Add(-changed)
	}
}

// The numbers follow from Kubernetes' rules: how many replicas it takes for Pods that ask for one CPU each to use half of it.
func TestReplicas(t *testing.T) {
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }
	for name, c := range map[string]struct {
		// of each Pod: what it uses in thousandths of a CPU, negative where that was not measured, and what it is like
		uses    []int64
		like    []func(*corev1.Pod)
		current int32
		want    int32
		err     string
	}{
		"as it should be":                 {[]int64{500, 500}, nil, 2, 2, ""},
		"nearly":                          {[]int64{545, 545}, nil, 2, 2, ""},
		"too much":                        {[]int64{1000, 1000}, nil, 2, 4, ""},
		"a little too much":               {[]int64{600, 600}, nil, 2, 3, ""},
		"too little":                      {[]int64{100, 100, 100}, nil, 3, 1, ""},
		"nothing":                         {[]int64{0, 0}, nil, 2, 0, ""},
		"one unmeasured, of too much":     {[]int64{1000, 1000, -1}, nil, 3, 4, ""},
		"one unmeasured, nearly enough":   {[]int64{800, -1}, nil, 2, 2, ""},
		"one unmeasured, of too little":   {[]int64{100, 100, -1}, nil, 3, 3, ""},
		"two idle, one unmeasured":        {[]int64{0, 0, -1, 0}, nil, 4, 2, ""},
		"one pending, of too much":        {[]int64{1000, 1000, -1}, []func(*corev1.Pod){nil, nil, pending}, 3, 4, ""},
		"one pending, of too little":      {[]int64{100, 100, -1}, []func(*corev1.Pod){nil, nil, pending}, 3, 1, ""},
		"one failed":                      {[]int64{1000, 5000}, []func(*corev1.Pod){nil, failed}, 1, 2, ""},
		"one ending":                      {[]int64{1000, 5000}, []func(*corev1.Pod){nil, ending}, 1, 2, ""},
		"one starting, hot":               {[]int64{500, 5000}, []func(*corev1.Pod){nil, started(time.Minute, time.Minute, "False")}, 2, 2, ""},
		"one ready for less than a look":  {[]int64{1000, 5000}, []func(*corev1.Pod){nil, started(2*time.Minute, 10*time.Second, "True")}, 2, 2, ""},
		"one ready for a while":           {[]int64{1000, 1000}, []func(*corev1.Pod){nil, started(2*time.Minute, time.Minute, "True")}, 2, 4, ""},
		"one that was never ready":        {[]int64{1000, 5000}, []func(*corev1.Pod){nil, started(time.Hour, time.Hour-time.Second, "False")}, 2, 2, ""},
		"one that is not ready any more":  {[]int64{1000, 1000}, []func(*corev1.Pod){nil, started(time.Hour, time.Minute, "False")}, 2, 4, ""},
		"nobody measured":                 {[]int64{-1}, nil, 1, 0, "did not receive metrics for targeted pods (pods might be unready)"},
		"nobody ready":                    {[]int64{500}, []func(*corev1.Pod){started(time.Minute, time.Minute, "False")}, 1, 0, "did not receive metrics for targeted pods (pods might be unready)"},
		"nobody there":                    {nil, nil, 1, 0, "no pods returned by selector while calculating replica count"},
		"one that asks for nothing":       {[]int64{500}, []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil }}, 1, 0, "missing request for cpu in container c of Pod p0"},
		"one of a pod's own request":      {[]int64{500}, []func(*corev1.Pod){podLevel("250m")}, 1, 4, ""},
		"one of requests without the CPU": {[]int64{500}, []func(*corev1.Pod){podLevel("")}, 1, 0, "missing pod-level request for cpu in Pod p0"},
	} {
		t.Run(name, func(t *testing.T) {
			var all []*corev1.Pod
			measured := samples{}
			for i, used := range c.uses {
				var change func(*corev1.Pod)
				if i < len(c.like) {
					change = c.like[i]
				}
				p := pod(fmt.Sprintf("p%d", i), change)
				all = append(all, p)
				if used >= 0 {
					measured[p.Name] = sample{used, noon, 30 * time.Second}
				}
			}
			n, err := func() (int32, error) {
				crew, err := tellApart(all, measured, true, noon)
				if err != nil {
					return 0, err
				}
				requests, err := requestsOf(all, "", corev1.ResourceCPU)
				if err != nil {
					return 0, err
				}
				g, _ := utilized(50, requests)
				return crew.replicas(c.current, g, tolerances{0.1, 0.1})
			}()
			if n != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

func podLevel(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = nil
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: apiresource.MustParse("1Mi")}}
		if cpu != "" {
			p.Spec.Resources.Requests[corev1.ResourceCPU] = apiresource.MustParse(cpu)
		}
	}
}

func TestRequestsOfContainers(t *testing.T) {
	p := pod("web", func(p *corev1.Pod) {
		side := p.Spec.Containers[0]
		side.Name, side.RestartPolicy = "side", ptr.To(corev1.ContainerRestartPolicyAlways)
		p.Spec.InitContainers = []corev1.Container{side, {Name: "once"}}
	})
	for container, want := range map[string]int64{"": 2000, "c": 1000, "side": 1000} {
		got, err := requestsOf([]*corev1.Pod{p}, container, corev1.ResourceCPU)
		if err != nil || got["web"] != want {
			t.Errorf("container %q asks for %v: %v", container, got, err)
		}
	}
	if _, err := requestsOf([]*corev1.Pod{p}, "once", corev1.ResourceCPU); err == nil || err.Error() != "container once not found in Pod web" {
		t.Errorf("a container that ends: %v", err)
	}
}

func TestValuesThatAreNotOfPods(t *testing.T) {
	all := []*corev1.Pod{pod("a", nil), pod("b", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse })}
	even := tolerances{0.1, 0.1}
	for _, c := range []struct {
		current int32
		ratio   float64
		want    int32
	}{{2, 1.05, 2}, {2, 3, 3}, {2, 0.2, 1}, {0, 0.2, 1}, {0, 0, 0}, {2, 1e12, math.MaxInt32}} {
		if n, err := perReady(c.current, c.ratio, all, even); err != nil || n != c.want {
			t.Errorf("%d of which one is ready, at %v times the target: %d, %v", c.current, c.ratio, n, err)
		}
	}
	if _, err := perReady(1, 2, nil, even); err == nil || !strings.HasSuffix(err.Error(), errNoPods.Error()) {
		t.Errorf("without Pods: %v", err)
	}
	for _, c := range []struct {
		current       int32
		value, target int64
		want          int32
		each          int64
	}{{2, 21, 10, 2, 11}, {2, 50, 10, 5, 25}, {3, 4, 10, 1, 2}, {0, 40, 10, 4, 40}, {0, 0, 10, 0, 0}, {1, math.MaxInt64, 1, math.MaxInt32, math.MaxInt64}} {
		if n, each := perPod(c.current, c.value, c.target, even); n != c.want || each != c.each {
			t.Errorf("%d share %d, %d each: %d, %d", c.current, c.value, c.target, n, each)
		}
	}
	if n := sum([]int64{math.MaxInt64, 1}); n != math.MaxInt64 {
		t.Errorf("more than can be counted is %d", n)
	}
}
