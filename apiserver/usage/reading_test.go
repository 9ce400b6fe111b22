package usage

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// at is a moment, so many seconds after another.
func at(seconds float64) time.Time { return asked.Add(time.Duration(seconds * float64(time.Second))) }

// read is a sample at a time of a counter that began at start, and says so many seconds of CPU.
func read(start, when, cpu float64) *point {
	return &point{start: at(start), at: at(when), cpu: uint64(cpu * 1e9), memory: 1, hasCPU: true, hasMemory: true}
}

// TestContainers: what a container uses is told by its last two samples, as long as they are of one run of it.
func TestContainers(t *testing.T) {
	pod := types.NamespacedName{Namespace: "n", Name: "p"}
	type containers = map[string]*point
	for name, c := range map[string]struct {
		samples []containers
		// millis are what the container "c" of the Pod uses, -1: the Pod is not known. window is that of the Pod, in seconds.
		millis int64
		window float64
	}{
		"one sample":                       {[]containers{{"c": read(-100, 0, 5)}}, -1, 0},
		"two samples":                      {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8)}}, 200, 15},
		"three samples":                    {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8)}, {"c": read(-100, 30, 9.5)}}, 100, 15},
		"nothing used":                     {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 5)}}, 0, 15},
		"started of late":                  {[]containers{{"c": read(-12, 0, 6)}}, 500, 12},
		"just started":                     {[]containers{{"c": read(-9, 0, 6)}}, -1, 0},
		"restarted between samples":        {[]containers{{"c": read(-100, 0, 5)}, {"c": read(10, 15, 4)}}, -1, 0},
		"restarted, and used more":         {[]containers{{"c": read(-100, 0, 5)}, {"c": read(10, 15, 6)}}, -1, 0},
		"restarted, then sampled":          {[]containers{{"c": read(-100, 0, 5)}, {"c": read(10, 15, 4)}, {"c": read(10, 30, 7)}}, 200, 15},
		"restarted long ago":               {[]containers{{"c": read(-100, 0, 5)}, {"c": read(3, 15, 6)}}, 500, 12},
		"counter fell":                     {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 4)}}, -1, 0},
		"same sample again":                {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8)}, {"c": read(-100, 15, 8)}}, 200, 15},
		"same sample as the first":         {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 0, 5)}}, -1, 0},
		"clock set back":                   {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8)}, {"c": read(-100, -5, 9)}}, -1, 0},
		"another container is new":         {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8), "d": read(14, 15, 0)}}, -1, 0},
		"another container has ended":      {[]containers{{"c": read(-100, 0, 5), "d": read(-100, 0, 0)}, {"c": read(-100, 15, 8)}}, 200, 15},
		"another container was read first": {[]containers{{"c": read(-100, 1, 5), "d": read(-100, 0, 0)}, {"c": read(-100, 16, 8), "d": read(-100, 14, 0)}}, 200, 14},
		"another lacks its memory":         {[]containers{{"c": read(-100, 0, 5)}, {"c": read(-100, 15, 8), "d": {hasCPU: true}}}, -1, 0},
		"gone for one sample":              {[]containers{{"c": read(-100, 0, 5)}, {}, {"c": read(-100, 30, 8)}}, -1, 0},
	} {
		var n *node
		for _, s := range c.samples {
			a := &answer{pods: map[types.NamespacedName]map[string]*point{}}
			if len(s) > 0 {
				a.pods[pod] = s
			}
			n = n.advance(a, period)
		}
		r := &reading{nodes: map[string]*node{"on": n}}
		var m metricsv1beta1.PodMetrics
		if got := r.Pod("on", pod, &m); got != (c.millis >= 0) {
			t.Errorf("%s: known is %v: %+v", name, got, m)
			continue
		}
		if c.millis < 0 {
			continue
		}
		if got := m.Containers[0]; got.Name != "c" || got.Usage.Cpu().MilliValue() != c.millis || m.Window.Seconds() != c.window {
			t.Errorf("%s: %+v in %v, want %dm in %vs", name, got, m.Window, c.millis, c.window)
		}
	}
}

// TestOtherPods: nothing is known of what is elsewhere.
func TestOtherPods(t *testing.T) {
	pod := types.NamespacedName{Namespace: "n", Name: "p"}
	n := (*node)(nil).advance(&answer{pods: map[types.NamespacedName]map[string]*point{pod: {"c": read(-12, 0, 6)}}}, period)
	r := &reading{nodes: map[string]*node{"on": n}}
	var m metricsv1beta1.PodMetrics
	if !r.Pod("on", pod, &m) || r.Pod("off", pod, &m) || r.Pod("on", types.NamespacedName{Namespace: "x", Name: "p"}, &m) {
		t.Error("the Pod is not known where it is, or known where it is not")
	}
	if r.Node("on", &metricsv1beta1.NodeMetrics{}) || r.Node("off", &metricsv1beta1.NodeMetrics{}) {
		t.Error("a node is known of which nothing was said")
	}
}
