package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// copiers are two Pods of test/images/copier, a controller written with client-go, and no more rights than it needs.
const copiers = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: copier}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: copier}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: copier}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: copier}
subjects: [{kind: ServiceAccount, name: copier}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: copier}
spec:
  replicas: 2
  selector: {matchLabels: {app: copier}}
  template:
    metadata: {labels: {app: copier}}
    spec:
      serviceAccountName: copier
      containers: [{name: copier, image: "copier:1.0", imagePullPolicy: IfNotPresent, args: [-lease=%d]}]
`

// leader waits until the copiers have a leader other than the ones given, and returns its Pod's name.
func (s *space) leader(not ...string) string {
	s.t.Helper()
	ctx := within(s.t, longest)
	w, err := s.client.CoordinationV1().Leases(s.name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=copier"})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	last := "nobody"
events:
	for e := range w.ResultChan() {
		lease, ok := e.Object.(*coordinationv1.Lease)
		if !ok || ptr.Deref(lease.Spec.HolderIdentity, "") == "" {
			continue
		}
		last = *lease.Spec.HolderIdentity
		for _, n := range not {
			if n == last {
				continue events
			}
		}
		return last
	}
	s.t.Fatalf("no leader but %v in time; it is %s", not, last)
	return ""
}

// givenUp follows the copiers' lease, and returns a function that waits until its holder, which is given, lets go of it: it is nobody's
// before it is another's.
func (s *space) givenUp() func(holder string) {
	s.t.Helper()
	ctx := within(s.t, longest)
	w, err := s.client.CoordinationV1().Leases(s.name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=copier"})
	if err != nil {
		s.t.Fatal(err)
	}
	return func(holder string) {
		s.t.Helper()
		defer w.Stop()
		for e := range w.ResultChan() {
			lease, ok := e.Object.(*coordinationv1.Lease)
			if !ok {
				continue
			}
			switch now := ptr.Deref(lease.Spec.HolderIdentity, ""); now {
			case "":
				return
			case holder:
			default:
				s.t.Fatalf("%s has the lease, and %s did not let go of it", now, holder)
			}
		}
		s.t.Fatalf("%s does not let go of the lease in time", holder)
	}
}

// source makes a ConfigMap that is to be copied, or changes its value.
func (s *space) source(name string, value int) {
	s.t.Helper()
	ctx := within(s.t, longest)
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"copy": "true"}},
		Data:       map[string]string{"value": strconv.Itoa(value)},
	}
	_, err := s.client.CoreV1().ConfigMaps(s.name).Update(ctx, m, metav1.UpdateOptions{})
	if err != nil {
		_, err = s.client.CoreV1().ConfigMaps(s.name).Create(ctx, m, metav1.CreateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// copied waits until a source's copy has a value.
func (s *space) copied(name string, value int) {
	s.t.Helper()
	s.awaitMap("copy-of-"+name, fmt.Sprintf("a copy of %d", value), func(t watch.EventType, m *corev1.ConfigMap) bool {
		return t != watch.Deleted && m.Data["value"] == strconv.Itoa(value)
	})
}

func (s *space) awaitMap(name, what string, wanted func(watch.EventType, *corev1.ConfigMap) bool) {
	s.t.Helper()
	ctx := within(s.t, longest)
	w, err := s.client.CoreV1().ConfigMaps(s.name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	var last *corev1.ConfigMap
	for e := range w.ResultChan() {
		if m, ok := e.Object.(*corev1.ConfigMap); ok {
			if last = m; wanted(e.Type, m) {
				return
			}
		}
	}
	s.t.Fatalf("ConfigMap %s is not %s in time; it is %+v", name, what, last)
}

// Of two copiers one leads; when its Pod goes, however it goes, the other takes over and misses nothing.
func TestControllerInPods(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(fmt.Sprintf(copiers, 15))
	s.kubectl("rollout", "status", "deployment/copier")
	first := s.leader()
	s.start("logs", "-f", first).until("^leading$")
	s.source("a", 1)
	s.copied("a", 1)
	s.source("a", 2)
	s.copied("a", 2)

	// It ends in order and gives its lease up: nobody has it for a moment.
	given := s.givenUp()
	s.kubectl("delete", "pod", first, "--wait=false")
	given(first)
	second := s.leader(first)
	s.source("b", 1)
	s.copied("b", 1)

	// It gets no chance to: its lease has to run out.
	s.kubectl("delete", "pod", second, "--force", "--grace-period=0")
	s.source("a", 3)
	third := s.leader(first, second)
	s.copied("a", 3)
	if pods := s.names("app=copier"); len(pods) != 2 || !strings.Contains(strings.Join(pods, " "), third) {
		t.Errorf("the copiers are %v, and %s leads", pods, third)
	}

	// What it owns goes with its owner.
	if err := s.client.CoreV1().ConfigMaps(s.name).Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.kubectl("wait", "--for=delete", "configmap/copy-of-b", "--timeout=60s")
	s.fails([]string{"auth", "can-i", "delete", "configmaps", "--as=system:serviceaccount:" + s.name + ":copier"})
}

// While the server is killed and started again and again, the controller keeps its lease, its watches go on where they were,
// and the copies end up the same as their sources.
func TestControllerOutlivesServer(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(fmt.Sprintf(copiers, 240))
	s.kubectl("rollout", "status", "deployment/copier")
	leader := s.leader()
	s.start("logs", "-f", leader).until("^leading$")
	const sources, rounds = 5, 3
	for round := range rounds {
		for i := range sources {
			s.source(fmt.Sprintf("source-%d", i), round)
		}
		o.killServer() // The copier has seen some of these, or none.
		o.restart()
		s.source("late", round)
		for i := range sources {
			s.copied(fmt.Sprintf("source-%d", i), round)
		}
		s.copied("late", round)
	}
	pods, err := s.client.CoreV1().Pods(s.name).List(context.Background(), metav1.ListOptions{LabelSelector: "app=copier"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "copiers", len(pods.Items), 2)
	for _, p := range pods.Items {
		equal(t, "restarts of "+p.Name, p.Status.ContainerStatuses[0].RestartCount, 0)
	}
	equal(t, "leader", s.leader(), leader)
}
