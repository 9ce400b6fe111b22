package pod_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestUserNamespaceOfPod follows the range of IDs of a Pod with hostUsers: false from its sandbox, through a restart of the kubelet,
// to its end, and those of Pods that are gone when the kubelet comes back.
func TestUserNamespaceOfPod(t *testing.T) {
	s := newStage(t)
	s.start()
	own := func(p *v1.Pod) { p.Spec.HostUsers = new(bool) }
	a, b, c := onePod("a", own), onePod("b", own), onePod("c", nil)
	for _, p := range []*v1.Pod{a, b, c} {
		s.m.Upsert(p)
		s.until(p, "ran", running)
	}
	if got := len(s.ranges.Pods()); got != 2 {
		t.Fatalf("%d Pods have ranges, not 2", got)
	}
	of := func(p *v1.Pod) *runtimeapi.UserNamespace {
		t.Helper()
		u, err := s.ranges.Of(t.Context(), p, "")
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := of(a)
	id, _ := s.m.SandboxID(t.Context(), a.UID)
	status, err := s.rt.PodSandboxStatus(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	sandbox := status.Status.Linux.Namespaces.Options.UsernsOptions
	if sandbox.GetMode() != runtimeapi.NamespaceMode_POD || sandbox.GetUids()[0].HostId != before.Uids[0].HostId {
		t.Errorf("the sandbox has %v, the Pod %v", sandbox, before)
	}
	if before.Uids[0].HostId == of(b).Uids[0].HostId || of(c).Mode != runtimeapi.NamespaceMode_NODE {
		t.Errorf("ranges %v, %v, %v", before, of(b), of(c))
	}
	s.stop()
	z := onePod("z", own) // it left nothing else
	of(z)
	s.start(a) // b left the API meanwhile
	s.until(a, "was taken over", running)
	if after := of(a); after.Uids[0].HostId != before.Uids[0].HostId {
		t.Errorf("the range was %v and is %v after a restart", before, after)
	}
	s.gone(b)
	s.gone(z)
	s.m.Upsert(deleted(a, 30))
	s.gone(a)
	if left := s.ranges.Pods(); len(left) != 0 {
		t.Errorf("ranges are left of %v", left)
	}
}

// TestUserNamespaceRefused: a Pod whose runtime cannot give it a user namespace does not run without one.
func TestUserNamespaceRefused(t *testing.T) {
	s := newStage(t)
	s.start()
	p := onePod("a", func(p *v1.Pod) {
		class := "class-of-plain"
		p.Spec.HostUsers, p.Spec.RuntimeClassName = new(bool), &class
	})
	s.m.Upsert(p)
	want := "Warning FailedCreatePodSandBox Failed to create pod sandbox: can't set `spec.hostUsers: false`, RuntimeClass handler \"plain\" does not support user namespaces"
	for got, timeout := "", time.After(time.Minute); got != want; {
		select {
		case got = <-s.events.Events:
		case <-timeout:
			t.Fatalf("no event %q", want)
		}
	}
	if len(s.ranges.Pods()) != 0 {
		t.Error("it has a range")
	}
}
