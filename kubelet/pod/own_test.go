package pod_test

import (
	"context"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownPod is a static Pod, as files have it.
func ownPod(name, uid string) *v1.Pod {
	return onePod(name, func(p *v1.Pod) {
		p.UID, p.Generation = types.UID(uid), 0
		p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	})
}

// What a file said before has ended when what it says now begins.
func TestStaticPodThatChanges(t *testing.T) {
	s := newStage(t)
	s.rt.IgnoreTerm("main")
	s.start()
	before, between, now := ownPod("a", "u1"), ownPod("a", "u2"), ownPod("a", "u3")
	s.m.Declare(before)
	s.until(before, "ran", running)
	s.m.Withdraw(before)
	s.m.Declare(between) // and never runs
	s.m.Withdraw(between)
	s.m.Declare(now)
	if !s.m.HasStatic(types.NamespacedName{Namespace: "default", Name: "a"}) {
		t.Error("the Pod is not known")
	}
	if p, ok := s.m.Pod("default", "a"); !ok || p.UID != before.UID || p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("while it ends the Pod is %+v", p)
	}
	if err := s.rt.Exit("main", 0, "Completed"); err != nil {
		t.Fatal(err)
	}
	s.until(now, "ran", running)
	s.gone(before)
	if p, ok := s.m.Pod("default", "a"); !ok || p.UID != now.UID {
		t.Errorf("the Pod of the name is %+v", p)
	}
	if _, ok := s.board.status[between.UID]; ok {
		t.Error("what the file said in between ran")
	}
	s.m.Withdraw(now)
	if err := s.rt.Exit("main", 0, "Completed"); err != nil {
		t.Fatal(err)
	}
	s.gone(now)
	s.empty()
}

// A file that comes back, as it was, is a Pod that ends and begins again.
func TestStaticPodThatComesBack(t *testing.T) {
	s := newStage(t)
	s.start()
	p := ownPod("a", "u1")
	s.m.Declare(p)
	first := s.until(p, "ran", running).ContainerStatuses[0].ContainerID
	s.m.Withdraw(p)
	s.m.Declare(p)
	s.until(p, "ran again", func(st v1.PodStatus) bool { return running(st) && st.ContainerStatuses[0].ContainerID != first })
	if n := s.rt.Running()["main"]; n != 1 {
		t.Errorf("%d containers run", n)
	}
}

// Static Pods run before it is known what the API says, are taken over by the next process, and end gracefully in that after
// which the file is gone. What the API's Pods have meanwhile stays.
func TestStaticPodsWithoutTheAPI(t *testing.T) {
	s := newStage(t)
	s.start()
	other := onePod("b", nil)
	s.m.Upsert(other)
	s.until(other, "ran", running)
	s.stop()

	own := ownPod("a", "u1")
	said := make(chan []*v1.Pod)
	s.own, s.bound = []*v1.Pod{own}, func(ctx context.Context) ([]*v1.Pod, bool) {
		select {
		case pods := <-said:
			return pods, true
		case <-ctx.Done():
			return nil, false
		}
	}
	s.start()
	s.until(own, "ran without the API", running)
	if n := s.rt.Running()["main"]; n != 2 {
		t.Errorf("%d containers run: what nobody has said anything about must stay", n)
	}
	s.stop()

	before, restarted := len(s.rt.Calls()), time.Now()
	s.start()
	began := s.until(own, "was taken over", running).StartTime
	said <- nil // the other Pod left the API
	s.gone(other)
	for _, call := range s.rt.Calls()[before:] {
		if call == "StartContainer main" || call == "RunPodSandbox a" {
			t.Errorf("after the restart: %s", call)
		}
	}
	if began.After(restarted) {
		t.Errorf("it began at %s, after the restart at %s", began, restarted)
	}
	s.stop()

	now := ownPod("a", "u2")
	s.own = []*v1.Pod{now}
	s.start()
	s.until(now, "ran instead", running)
	s.gone(own)
	if !slices.Contains(s.rt.Calls(), "StopContainer main 30s") {
		t.Errorf("what the file said before was not given its grace: %v", s.rt.Calls())
	}
}
