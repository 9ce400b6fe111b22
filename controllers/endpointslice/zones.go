package endpointslice

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/klog/v2"
)

// zones is what the nodes add up to: how many processors each zone has, by which endpoints are spread. A change of a node costs
// the same however many there are. Its methods are safe for concurrent use.
type zones struct {
	mu sync.Mutex
	// nodes is what each node adds that counts.
	nodes map[string]portion
	// sums are by zone; a zone without nodes is missing.
	sums map[string]zone
	// blind is how many nodes count, but do not say their zone or their processors. As long as there is one, nothing is spread.
	blind int
	// stale says that topology has not been told of the last change.
	stale bool
}

// zone is how many nodes of a zone count, and the thousandths of processors that they have.
type zone struct {
	nodes  int
	millis int64
}

// portion is what one node adds.
type portion struct {
	zone   string
	millis int64
}

func (p portion) blind() bool { return p.zone == "" || p.millis == 0 }

// portionOf says what a node adds, and whether it counts at all: it must be ready, and be no node of the control plane.
func portionOf(n *corev1.Node) (portion, bool) {
	for _, role := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if _, has := n.Labels[role]; has {
			return portion{}, false
		}
	}
	return portion{zone: n.Labels[corev1.LabelTopologyZone], millis: n.Status.Allocatable.Cpu().MilliValue()}, ready(n)
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// set takes a node as it is now, and says whether it adds anything else than before.
func (z *zones) set(n *corev1.Node) bool {
	is, counts := portionOf(n)
	return z.replace(n.Name, is, counts)
}

// remove forgets a node, and says whether it had counted.
func (z *zones) remove(name string) bool { return z.replace(name, portion{}, false) }

func (z *zones) replace(name string, is portion, counts bool) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	was, counted := z.nodes[name]
	if counted == counts && was == is {
		return false
	}
	if counted {
		z.add(was, -1)
		delete(z.nodes, name)
	}
	if counts {
		z.add(is, 1)
		if z.nodes == nil {
			z.nodes = map[string]portion{}
		}
		z.nodes[name] = is
	}
	z.stale = z.stale || counted || counts
	return counted || counts
}

// add adds a node's portion, or takes it away: sign is 1 or -1. z.mu is held.
func (z *zones) add(p portion, sign int) {
	if p.blind() {
		z.blind += sign
		return
	}
	sum := z.sums[p.zone]
	sum.nodes += sign
	sum.millis += int64(sign) * p.millis
	switch {
	case sum.nodes == 0:
		delete(z.sums, p.zone)
	case z.sums == nil:
		z.sums = map[string]zone{p.zone: sum}
	default:
		z.sums[p.zone] = sum
	}
}

// tell has topology know the sums, if they have changed since it was told last, and says whether they had. Who calls meanwhile waits
// until it knows. Topology adds up nodes itself: it is shown one for each zone that has all of the zone's processors.
func (z *zones) tell(topology *topologycache.TopologyCache) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.stale {
		return false
	}
	var shown []*corev1.Node
	if z.blind == 0 {
		for name, sum := range z.sums {
			shown = append(shown, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: name}},
				Status: corev1.NodeStatus{
					Allocatable: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(sum.millis, resource.DecimalSI)},
					Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				},
			})
		}
	}
	topology.SetNodes(klog.Background(), shown)
	z.stale = false
	return true
}
