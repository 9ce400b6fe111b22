package probe

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/kubelet/pod"
)

// known is the result that a probe begins with: what the Pod's status says that
// an earlier process found out about this very instance. A kubelet that starts
// beside running containers believes that until it has asked for itself, so
// that its restart takes no Pod out of its Services for a period of its probes,
// and asks nobody again whether it has started. Nothing is believed of
// readiness where the Pod is not ready: it may be that nobody could ask for a
// while (a silent node), and then the containers have to show that they are.
func known(p *v1.Pod, containerID string, k kind) pod.Result {
	if k == liveness {
		return pod.Success
	}
	for _, st := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if pod.InstanceID(st.ContainerID) != containerID {
			continue
		}
		if k == startup && st.Started != nil && *st.Started || k == readiness && st.Ready && isReady(p) {
			return pod.Success
		}
	}
	return pod.Unknown
}

func isReady(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}
