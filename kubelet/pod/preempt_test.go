package pod_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// demanding is a Pod that asks for so much memory.
func demanding(name, memory string, change func(*v1.Pod)) *v1.Pod {
	return onePod(name, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = amounts("memory", memory)
		if change != nil {
			change(p)
		}
	})
}

func critical(p *v1.Pod) {
	priority := int32(2_000_000_000)
	p.Spec.Priority = &priority
}

// A critical Pod that does not fit waits for those to end which have to for it, in the time that they ask for, and then starts.
func TestPreemption(t *testing.T) {
	s := newStage(t)
	s.start()
	victim, stays := demanding("victim", "700Mi", nil), demanding("stays", "100Mi", nil)
	for _, p := range []*v1.Pod{victim, stays} {
		s.m.Upsert(p)
		s.until(p, "ran", running)
	}
	vital := demanding("vital", "800Mi", critical)
	s.m.Upsert(vital)
	s.until(vital, "ran", running)
	st := s.until(victim, "failed", func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed })
	if c := conditionOf(st, v1.DisruptionTarget); st.Reason != "Preempting" || st.Message != "Preempted in order to admit critical pod" ||
		c == nil || c.Reason != v1.PodReasonTerminationByKubelet || c.Message != "Pod was preempted by Kubelet to accommodate a critical pod." {
		t.Errorf("status of the victim: %+v", st)
	}
	calls := s.rt.Calls()
	stop, start := slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, "StopContainer main 3") }), slices.Index(calls, "RunPodSandbox vital")
	if stop < 0 || start < stop {
		t.Errorf("the victim is stopped, within its own grace, before the other starts: %v", calls)
	}
	if text := s.told("Warning Preempting"); text != "Warning Preempting Preempted in order to admit critical pod" {
		t.Errorf("event %q", text)
	}
	s.until(stays, "still ran", running)
	if n := s.rt.Running()["main"]; n != 2 {
		t.Errorf("%d containers run", n)
	}
	other := demanding("other", "200Mi", nil)
	s.m.Upsert(other)
	st = s.until(other, "was refused", func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed })
	if st.Reason != "OutOfmemory" {
		t.Errorf("refused for %s %s", st.Reason, st.Message)
	}
}

// A kubelet that stops while a critical Pod waits for room leaves both as they are.
func TestPreemptionEndsWithTheKubelet(t *testing.T) {
	s := newStage(t)
	s.rt.IgnoreTerm("main")
	s.start()
	victim, vital := demanding("victim", "700Mi", nil), demanding("vital", "800Mi", critical)
	s.m.Upsert(victim)
	s.until(victim, "ran", running)
	s.m.Upsert(vital)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stopped := func(call string) bool { return strings.HasPrefix(call, "StopContainer main ") }
	if err := s.rt.Wait(ctx, func() bool { return slices.ContainsFunc(s.rt.Calls(), stopped) }); err != nil {
		t.Fatal(s.rt.Calls())
	}
	s.stop()
	if slices.Contains(s.rt.Calls(), "RunPodSandbox vital") {
		t.Error("the critical Pod starts beside its victim")
	}
}
