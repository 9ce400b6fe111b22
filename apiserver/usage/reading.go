package usage

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/peapod/peapod/api/resource"
)

// fresh is how long a container has run, at least, for its start to count as a sample: what it used of a shorter time says little.
const fresh = 10 * time.Second

// pair is the last sample of a counter and the one before it, which is zero if there is none that it can be compared with.
type pair struct{ last, before point }

// node is what is known of a node. It is not changed once it is made.
type node struct {
	own  pair
	pods map[types.NamespacedName]map[string]pair
}

// advance takes in what the kubelet says. A node of which nothing is known is nil. period is the time between samples.
func (n *node) advance(a *answer, period time.Duration) *node {
	if n == nil {
		n = &node{}
	}
	next := &node{pods: make(map[types.NamespacedName]map[string]pair, len(a.pods))}
	if a.node.whole() {
		next.own = n.own.advance(a.node)
	}
	for name, containers := range a.pods {
		old, pairs := n.pods[name], make(map[string]pair, len(containers))
		for container, p := range containers {
			if !p.whole() {
				pairs[container] = pair{} // it is there, and not known
				continue
			}
			if age := p.at.Sub(p.start); !p.start.IsZero() && age >= fresh && age < period {
				pairs[container] = pair{last: *p, before: point{start: p.start, at: p.start}}
				continue
			}
			pairs[container] = old[container].advance(*p)
		}
		next.pods[name] = pairs
	}
	return next
}

// advance takes in a sample. A counter that has begun anew has none before it; one that was read no later than the last tells nothing
// new.
func (p pair) advance(now point) pair {
	switch {
	case p.last.at.IsZero() || !now.start.IsZero() && now.start.After(p.last.at) || now.cpu < p.last.cpu:
		return pair{last: now}
	case now.at.After(p.last.at):
		return pair{last: now, before: p.last}
	case p.before.at.Before(now.at):
		return pair{last: now, before: p.before}
	}
	return pair{last: now}
}

// used is how much was used between the two samples; false: that is not known.
func (p pair) used() (list corev1.ResourceList, at time.Time, window time.Duration, known bool) {
	if p.before.at.IsZero() || !p.last.at.After(p.before.at) || p.last.cpu < p.before.cpu {
		return nil, time.Time{}, 0, false
	}
	window = p.last.at.Sub(p.before.at)
	nanoCores := int64(float64(p.last.cpu-p.before.cpu) / window.Seconds())
	return corev1.ResourceList{
		corev1.ResourceCPU:    *apiresource.NewScaledQuantity(nanoCores, apiresource.Nano),
		corev1.ResourceMemory: *apiresource.NewQuantity(int64(p.last.memory), apiresource.BinarySI),
	}, p.last.at, window, true
}

// reading is what was measured of all nodes that have answered.
type reading struct{ nodes map[string]*node }

var _ resource.Reading = (*reading)(nil)

// Node implements resource.Reading.
func (r *reading) Node(name string, into *metricsv1beta1.NodeMetrics) bool {
	n := r.nodes[name]
	if n == nil {
		return false
	}
	list, at, window, ok := n.own.used()
	if !ok {
		return false
	}
	into.Usage, into.Timestamp, into.Window = list, metav1.NewTime(at), metav1.Duration{Duration: window}
	return true
}

// Pod implements resource.Reading. A Pod is known when all of its running containers are: of a part of them nobody could tell that
// it is not all. The times are those of the container that was read first.
func (r *reading) Pod(on string, pod types.NamespacedName, into *metricsv1beta1.PodMetrics) bool {
	n := r.nodes[on]
	if n == nil || len(n.pods[pod]) == 0 {
		return false
	}
	containers := n.pods[pod]
	into.Containers = make([]metricsv1beta1.ContainerMetrics, 0, len(containers))
	for _, name := range slices.Sorted(maps.Keys(containers)) {
		list, at, window, ok := containers[name].used()
		if !ok {
			return false
		}
		into.Containers = append(into.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: list})
		if into.Timestamp.IsZero() || at.Before(into.Timestamp.Time) {
			into.Timestamp, into.Window = metav1.NewTime(at), metav1.Duration{Duration: window}
		}
	}
	return true
}
