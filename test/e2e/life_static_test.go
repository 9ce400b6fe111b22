package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// staticPod is a file that says a Pod, which says something in its log.
func staticPod(name, says string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: own}}
spec:
  terminationGracePeriodSeconds: 2
  priorityClassName: system-node-critical
  containers:
  - {name: c, image: peapod.local/hello:latest, imagePullPolicy: IfNotPresent, env: [{name: GREETING, value: ` + says + `}], resources: {requests: {cpu: 10m}}}
`
}

// place puts a file in the place of another, at once.
func place(t *testing.T, file, text string) {
	t.Helper()
	beside := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, file); err != nil {
		t.Fatal(err)
	}
}

// mirror waits until the mirror of a static Pod is ready, and is not the one that there was, and returns it.
func (s *space) mirror(name string, was types.UID) *corev1.Pod {
	s.t.Helper()
	return s.awaitPod(name, "another and ready", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return p.UID != was
			}
		}
		return false
	})
}

func containerOf(p *corev1.Pod) string { return p.Status.ContainerStatuses[0].ContainerID }

// A static Pod's way: the file is there before the server is, its mirror is deleted, the server restarts, the file changes, goes.
func TestStaticPod(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "own.yaml")
	text := staticPod("own", "first")
	place(t, file, text)
	place(t, filepath.Join(dir, "bad.yaml"), strings.Replace(text, "  terminationGrace", "  serviceAccountName: default\n  terminationGrace", 1))
	o := newOwn(t, "--pod-manifest-path", dir, "--node-name", "n1")
	s := o.space()
	first := s.mirror("own-n1", "")
	s.wantMirror(first)
	contains(t, "describe", s.kubectl("describe", "pod", "own-n1"), "Started", "Priority Class Name:  system-node-critical")
	if out := s.logged("Hello from Pod own-n1", "own-n1"); out == "" {
		t.Error("no log")
	}

	s.kubectl("delete", "pod", "own-n1", "--wait=false")
	second := s.mirror("own-n1", first.UID)
	s.kubectl("delete", "pod", "own-n1", "--force", "--grace-period=0", "--wait=false")
	third := s.mirror("own-n1", second.UID)
	equal(t, "container after its mirror was deleted twice", containerOf(third), containerOf(first))
	s.kubectl("drain", "n1")
	s.kubectl("uncordon", "n1")

	o.killServer()
	o.restart()
	o.awaitKubelet()
	// The mirror stays, as it was: a Pod that comes after the restart shows that the kubelet is at work.
	s.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec: {containers: [{name: c, image: peapod.local/hello:latest, imagePullPolicy: IfNotPresent}]}\n")
	s.ready("later")
	s.kubectl("delete", "pod", "later", "--now")
	taken := s.mirror("own-n1", "")
	equal(t, "mirror after a restart", taken.UID, third.UID)
	equal(t, "container after a restart", containerOf(taken), containerOf(first))
	equal(t, "start time after a restart", taken.Status.StartTime.Time.Equal(third.Status.StartTime.Time), true)
	equal(t, "conditions after a restart", equality.Semantic.DeepEqual(taken.Status.Conditions, third.Status.Conditions), true)

	place(t, file, staticPod("own", "second"))
	fourth := s.mirror("own-n1", third.UID)
	s.wantMirror(fourth)
	if containerOf(fourth) == containerOf(first) || fourth.Annotations["kubernetes.io/config.hash"] == first.Annotations["kubernetes.io/config.hash"] {
		t.Errorf("after a change of the file the Pod is the same: %+v", fourth)
	}
	place(t, file, "half a file")
	place(t, filepath.Join(dir, "other.json"), `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "peapod.local/hello:latest", "imagePullPolicy": "IfNotPresent"}]}}`)
	s.mirror("other-n1", "")
	equal(t, "mirror of a file that is broken now", s.mirror("own-n1", "").UID, fourth.UID)
	for _, name := range []string{"own.yaml", "other.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.gone("own-n1")
	s.gone("other-n1")
	o.wantContainers(nil)
	log, err := os.ReadFile(o.Log.File)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the server's log", string(log), "spec.serviceAccountName: static pods may not reference serviceaccounts", filepath.Join(dir, "bad.yaml"))
}

// wantMirror checks what makes a Pod a mirror.
func (s *space) wantMirror(p *corev1.Pod) {
	s.t.Helper()
	hash := p.Annotations["kubernetes.io/config.hash"]
	if hash == "" || p.Annotations[corev1.MirrorPodAnnotationKey] != hash || p.Annotations["kubernetes.io/config.source"] != "file" || p.Annotations["kubernetes.io/config.seen"] == "" {
		s.t.Errorf("annotations of a mirror: %v", p.Annotations)
	}
	node, err := s.client.CoreV1().Nodes().Get(s.t.Context(), p.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	yes := true
	owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	if !equality.Semantic.DeepEqual(p.OwnerReferences, owner) {
		s.t.Errorf("owners of a mirror: %+v", p.OwnerReferences)
	}
	if p.Generation != 1 || p.Status.ObservedGeneration != 0 || p.Status.QOSClass != corev1.PodQOSBurstable {
		s.t.Errorf("mirror %+v", p)
	}
}
