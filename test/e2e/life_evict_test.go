package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// graceful is a Pod that takes its time to end, and says by its exit code that it had it.
const graceful = `
apiVersion: v1
kind: Pod
metadata: {name: graceful}
spec:
  terminationGracePeriodSeconds: 60
  restartPolicy: Never
  tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'trap "sleep 3; exit 7" TERM; touch /tmp/up; while :; do sleep 0.2; done']
    readinessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1}
    resources: {requests: {memory: 1Mi}}
`

// A node that is short by a soft threshold says so at once, lets Pods live until that has lasted, and then gives them time.
func TestSoftEviction(t *testing.T) {
	t.Parallel()
	o := newOwn(t, "--eviction-soft=memory.available<99%", "--eviction-soft-grace-period=memory.available=25s", "--eviction-max-pod-grace-period=50")
	s := o.space()
	s.kubectl("wait", "--for=condition=MemoryPressure", "node", "--all", "--timeout=120s")
	s.apply(graceful)
	s.ready("graceful")
	p := s.awaitPod("graceful", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	equal(t, "reason", p.Status.Reason, "Evicted")
	contains(t, "message", p.Status.Message, "The node was low on resource: memory. Threshold quantity: ")
	term := p.Status.ContainerStatuses[0].State.Terminated
	if term == nil || term.ExitCode != 7 {
		t.Errorf("container ended as %+v, want exit code 7, which it has after three seconds", term)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			equal(t, "disruption", c.Reason, "TerminationByKubelet")
		}
	}
	s.event("graceful", "Evicted", "The node was low on resource: memory.")
	contains(t, "node's events", s.kubectl("get", "events", "-A", "--field-selector=involvedObject.kind=Node"), "EvictionThresholdMet", "Attempting to reclaim memory")
}
