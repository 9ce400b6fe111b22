package stats

import (
	"crypto/x509"
	"math"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"

	"github.com/peapod/peapod/kubelet/static"
)

// podCollector makes metrics of how many Pods and containers the node has. It counts when it is asked, and keeps nothing.
type podCollector struct {
	metrics.BaseStableCollector
	p *Provider

	node, desired, active, mirrors, running, containers, ephemeral, cgroup family
	volumes, serverTTL, clientTTL, serverFailures, clientFailures          family
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
		ephemeral:  gauge("kubelet_managed_ephemeral_containers", "Current number of ephemeral containers in pods managed by this kubelet.", alpha),
		cgroup:     gauge("kubelet_cgroup_version", "cgroup version on the hosts.", alpha),
		volumes:    gauge("volume_manager_total_volumes", "Number of volumes in Volume Manager", alpha, "plugin_name", "state"),
		serverTTL: gauge("kubelet_certificate_manager_server_ttl_seconds",
			"Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.", alpha),
		clientTTL: gauge("kubelet_certificate_manager_client_ttl_seconds",
			"Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.", alpha),
		serverFailures: counter("kubelet_server_expiration_renew_errors", "Counter of certificate renewal errors.", alpha),
		clientFailures: counter("kubelet_certificate_manager_client_expiration_renew_errors", "Counter of certificate renewal errors.", alpha),
	}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *podCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, f := range []family{c.node, c.desired, c.active, c.mirrors, c.running, c.containers, c.ephemeral, c.cgroup,
		c.volumes, c.serverTTL, c.clientTTL, c.serverFailures, c.clientFailures} {
		ch <- f.desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *podCollector) CollectWithStability(ch chan<- metrics.Metric) {
	desired, active := map[bool]int{false: 0, true: 0}, map[bool]int{false: 0, true: 0}
	running, ephemeral, containers := 0, 0, map[string]int{"running": 0}
	pods := c.p.cfg.Pods().Pods()
	for _, p := range pods {
		ephemeral += len(p.Spec.EphemeralContainers)
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
	put(c.ephemeral, ephemeral)
	version := 1
	if cgroups.IsCgroup2UnifiedMode() {
		version = 2
	}
	put(c.cgroup, version)
	c.collectVolumes(out, pods)
	c.collectCertificates(out)
}

func (c *podCollector) collectVolumes(out sink, pods []*v1.Pod) {
	if c.p.cfg.Volumes == nil {
		return
	}
	desired, actual := c.p.cfg.Volumes(pods)
	for state, counts := range map[string]map[string]int{"desired_state_of_world": desired, "actual_state_of_world": actual} {
		for plugin, n := range counts {
			out.put(c.volumes, time.Time{}, float64(n), plugin, state)
		}
	}
}

// collectCertificates tells how long certificates last. One that is not used lasts for ever.
func (c *podCollector) collectCertificates(out sink) {
	cs := &c.p.cfg.Certificates
	for _, one := range []struct {
		family
		of func() *x509.Certificate
	}{{c.serverTTL, cs.Server}, {c.clientTTL, cs.Client}} {
		left := math.Inf(1)
		if one.of != nil {
			if leaf := one.of(); leaf != nil {
				left = time.Until(leaf.NotAfter).Seconds()
			}
		}
		out.put(one.family, time.Time{}, left)
	}
	for _, one := range []struct {
		family
		of func() int64
	}{{c.serverFailures, cs.ServerFailures}, {c.clientFailures, cs.ClientFailures}} {
		failures := int64(0)
		if one.of != nil {
			failures = one.of()
		}
		out.put(one.family, time.Time{}, float64(failures))
	}
}
