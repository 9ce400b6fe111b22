package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/json"
)

// A node that starts again beside its Pods has nothing new to say of them: who was ready stays ready though the next probe is an hour
// away, and who has ended keeps what it said, of which the file is gone.
func TestRestartChangesNoPod(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.awaitAccount()
	s.apply(script("probed", "exec sleep 1000000", "",
		"startupProbe: {exec: {command: ['true']}, periodSeconds: 3600}\n"+
			"readinessProbe: {exec: {command: ['true']}, periodSeconds: 3600}") +
		script("over", "echo bye > /dev/termination-log; exit 3", "restartPolicy: Never", ""))
	s.ready("probed")
	over := s.awaitPod("over", "ended, and its sandbox with it", func(p *corev1.Pod) bool {
		c := podCondition(p, corev1.PodReadyToStartContainers)
		return p.Status.Phase == corev1.PodFailed && c != nil && c.Status == corev1.ConditionFalse
	})
	equal(t, "message", only(t, over).State.Terminated.Message, "bye\n")
	before := s.toldByNode(over.Spec.NodeName)
	o.killServer()
	o.restart()
	o.client = clientOf(t, o.Cluster)
	s.client = o.client
	o.awaitKubelet()
	// Who asks the node for these waits until it knows the Pods.
	s.kubectl("exec", "probed", "--", "true")
	s.kubectl("logs", "over")
	after := s.toldByNode(over.Spec.NodeName)
	for _, name := range []string{"probed", "over"} {
		if want, got := before[name], after[name]; got == nil || !apiequality.Semantic.DeepEqual(got, want) {
			t.Errorf("Pod %s was\n%+v\nand is\n%+v", name, want, got)
		}
	}
}

// toldByNode are the statuses that a node has of its Pods, by name.
func (s *space) toldByNode(node string) map[string]*corev1.PodStatus {
	s.t.Helper()
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(s.kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/pods")), &pods); err != nil {
		s.t.Fatal(err)
	}
	told := map[string]*corev1.PodStatus{}
	for i := range pods.Items {
		told[pods.Items[i].Name] = &pods.Items[i].Status
	}
	return told
}
