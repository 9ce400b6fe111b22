package stats

import (
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"

	"github.com/peapod/peapod/kubelet/static"
)

// podCollector makes metrics of how many Pods and containers the node has. It counts when it is asked, and keeps nothing.
type podCollector struct {
	metrics.BaseStableCollector
	p *Provider

	node, desired, active, mirrors, running, containers family
}

func newPodCollector(p *Provider) *podCollector {
	const alpha = metrics.ALPHA
	return &podCollector{
		p:          p,
		node:       gauge("kubelet_node_name", "The node's name. The count is always 1.", alpha, "node"),
		desired:    gauge("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", alpha, "static"),
		active:     gauge("kubelet_active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.", alpha, "static"),
		mirrors:    gauge("kubelet_mirror_pods", "The number of mirror pods the kubelet will try to create (one per admitted static pod)", alpha),
		running:    gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox", alpha),
		containers: gauge("kubelet_running_containers", "Number of containers currently running", alpha, "container_state"),
	}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *podCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, f := range []family{c.node, c.desired, c.active, c.mirrors, c.running, c.containers} {
		ch <- f.desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *podCollector) CollectWithStability(ch chan<- metrics.Metric) {
	desired, active := map[bool]int{false: 0, true: 0}, map[bool]int{false: 0, true: 0}
	running, containers := 0, map[string]int{"running": 0}
	for _, p := range c.p.cfg.Pods().Pods() {
		own := static.Is(p)
		if p.DeletionTimestamp == nil || !own { // the file of a static Pod that ends does not ask for it any more
			desired[own]++
		}
		if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			active[own]++
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == v1.PodReadyToStartContainers && condition.Status == v1.ConditionTrue {
				running++
			}
		}
		for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range list {
				switch s := &list[i].State; {
				case s.Running != nil:
					containers["running"]++
				case s.Terminated != nil:
					containers["exited"]++
				}
			}
		}
	}
	out := sink(ch)
	put := func(f family, n int, labels ...string) { out.put(f, time.Time{}, float64(n), labels...) }
	put(c.node, 1, c.p.cfg.NodeName)
	for _, own := range []bool{false, true} {
		label := ""
		if own {
			label = strconv.FormatBool(own)
		}
		put(c.desired, desired[own], label)
		put(c.active, active[own], label)
	}
	put(c.mirrors, desired[true])
	put(c.running, running)
	for state, n := range containers {
		put(c.containers, n, state)
	}
}
