package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// A static Pod for which there is no room on its node gets that of a Pod which is less important; others stay.
func TestStaticPodPreempts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := newOwn(t, "--pod-manifest-path", dir, "--node-name", "n1")
	s := o.space()
	node, err := o.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	most := fmt.Sprintf("%dm", node.Status.Allocatable.Cpu().MilliValue()*6/10)
	asks := func(name, cpu string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 30
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'trap "sleep 3; exit 5" TERM; touch /tmp/up; while :; do sleep 0.2; done']
    readinessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1}
    resources: {requests: {cpu: %s}}
`, name, cpu)
	}
	s.apply(asks("large", most) + "---" + asks("little", "10m"))
	s.ready("large")
	s.ready("little")
	place(t, filepath.Join(dir, "vital.yaml"), `apiVersion: v1
kind: Pod
metadata: {name: vital}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: c, image: peapod.local/hello:latest, imagePullPolicy: IfNotPresent, resources: {requests: {cpu: `+most+`}}}
`)
	vital := s.mirror("vital-n1", "")
	large := s.awaitPod("large", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	equal(t, "reason and message", large.Status.Reason+": "+large.Status.Message, "Preempting: Preempted in order to admit critical pod")
	term := large.Status.ContainerStatuses[0].State.Terminated
	if term == nil || term.ExitCode != 5 {
		t.Fatalf("container of the victim ended as %+v, want exit code 5, which it has after three seconds", term)
	}
	if began := vital.Status.ContainerStatuses[0].State.Running.StartedAt; began.Before(&term.FinishedAt) {
		t.Errorf("the static Pod began at %s, before its victim ended at %s", began, term.FinishedAt)
	}
	disrupted := false
	for _, c := range large.Status.Conditions {
		disrupted = disrupted || (c.Type == corev1.DisruptionTarget && c.Reason == "TerminationByKubelet" && c.Status == corev1.ConditionTrue)
	}
	equal(t, "condition DisruptionTarget", disrupted, true)
	s.event("large", "Preempting", "Preempted in order to admit critical pod")
	s.ready("little")
}
