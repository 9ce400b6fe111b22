package pod_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// sized is a Pod of one container with requests and limits of this much.
func sized(name, cpu, memory string) *v1.Pod {
	return onePod(name, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{
			Requests: amounts("cpu", cpu, "memory", memory), Limits: amounts("cpu", cpu, "memory", memory),
		}
	})
}

// resizedTo is the next generation of a Pod, with that much.
func resizedTo(p *v1.Pod, cpu, memory string) *v1.Pod {
	next := p.DeepCopy()
	next.Generation++
	for i := range next.Spec.Containers {
		next.Spec.Containers[i].Resources.Requests = amounts("cpu", cpu, "memory", memory)
		next.Spec.Containers[i].Resources.Limits = amounts("cpu", cpu, "memory", memory)
	}
	return next
}

func conditionOf(st v1.PodStatus, kind v1.PodConditionType) *v1.PodCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == kind {
			return &st.Conditions[i]
		}
	}
	return nil
}

// has says whether the first container has that much in force and allocated, and no resize is open.
func has(p *v1.Pod) func(v1.PodStatus) bool {
	return func(st v1.PodStatus) bool {
		if len(st.ContainerStatuses) == 0 || st.ContainerStatuses[0].Resources == nil {
			return false
		}
		c, want := st.ContainerStatuses[0], p.Spec.Containers[0].Resources
		return apiequality.Semantic.DeepEqual(*c.Resources, want) && apiequality.Semantic.DeepEqual(c.AllocatedResources, want.Requests) &&
			conditionOf(st, v1.PodResizePending) == nil && conditionOf(st, v1.PodResizeInProgress) == nil
	}
}

func pending(reason string, generation int64) func(v1.PodStatus) bool {
	return func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizePending)
		return c != nil && c.Reason == reason && c.ObservedGeneration == generation
	}
}

// told takes the events up to one that begins so, and returns it.
func (s *stage) told(prefix string) string {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-s.events.Events:
			if strings.HasPrefix(e, prefix) {
				return e
			}
		case <-timeout:
			s.t.Fatalf("no event %q", prefix)
		}
	}
}

// run starts Pods and waits for them.
func (s *stage) run(pods ...*v1.Pod) {
	s.t.Helper()
	for _, p := range pods {
		s.m.Upsert(p)
		s.until(p, "ran", running)
	}
}

// TestResize changes limits of a running container in place: the Pod's cgroup first, and last.
func TestResize(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	s.run(p)
	before := s.until(p, "ran", running).ContainerStatuses[0]
	bigger := resizedTo(p, "2", "128Mi")
	s.m.Upsert(bigger)
	st := s.until(p, "was resized", has(bigger))
	if got := s.rt.Configs()["main"].Linux.Resources; got.MemoryLimitInBytes != 128<<20 || got.CpuQuota != 200_000 {
		t.Errorf("limits %v", got)
	}
	if c := st.ContainerStatuses[0]; c.ContainerID != before.ContainerID || c.RestartCount != 0 || st.ObservedGeneration != 2 {
		t.Errorf("status %+v", st)
	}
	if got := fmt.Sprint(s.groups.calls); got != "[Ensure 64 Widen 64 128 Ensure 128]" {
		t.Errorf("cgroup: %s", got)
	}
	if !apiequality.Semantic.DeepEqual(st.AllocatedResources, amounts("cpu", "2", "memory", "128Mi")) {
		t.Errorf("allocated to the pod: %v", st.AllocatedResources)
	}
	s.volumes.mu.Lock()
	if s.volumes.newest == nil || s.volumes.newest.Spec.Containers[0].Resources.Limits.Cpu().String() != "2" {
		t.Errorf("volumes were told of %+v", s.volumes.newest)
	}
	s.volumes.mu.Unlock()
	const details = `{"containers":[{"name":"main","resources":{"limits":{"cpu":"2","memory":"128Mi"},"requests":{"cpu":"2","memory":"128Mi"}}}],"generation":2}`
	for _, want := range []string{"Normal ResizeStarted Pod resize started: " + details, "Normal ResizeCompleted Pod resize completed: " + details} {
		if got := s.told(want[:20]); got != want {
			t.Errorf("event %s\nwant  %s", got, want)
		}
	}
}

// TestResizeIsDeferred lets a Pod wait until another one shrinks, then until one is gone.
func TestResizeIsDeferred(t *testing.T) {
	s := newStage(t)
	s.start()
	a, b := sized("a", "2", "64Mi"), sized("b", "1", "64Mi")
	s.run(a, b)
	b = resizedTo(b, "3", "64Mi")
	s.m.Upsert(b)
	st := s.until(b, "was put off", pending(v1.PodReasonDeferred, 2))
	const message = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"
	if got := conditionOf(st, v1.PodResizePending).Message; got != message {
		t.Errorf("message %q", got)
	}
	if c := st.ContainerStatuses[0]; c.Resources.Requests.Cpu().String() != "1" || c.AllocatedResources.Cpu().String() != "1" {
		t.Errorf("what it has: %+v, %v", c.Resources, c.AllocatedResources)
	}
	if got := s.told("Warning ResizeDeferred"); !strings.Contains(got, `Pod resize Deferred: {"containers":[{"name":"main",`) || !strings.HasSuffix(got, `"generation":2,"error":"`+message+`"}`) {
		t.Errorf("event %s", got)
	}
	a = resizedTo(a, "1", "64Mi")
	s.m.Upsert(a)
	s.until(a, "shrank", has(a))
	s.until(b, "found room", has(b))

	b = resizedTo(b, "4", "64Mi")
	s.m.Upsert(b)
	s.until(b, "was put off again", pending(v1.PodReasonDeferred, 3))
	s.m.Upsert(deleted(a, 0))
	s.gone(a)
	s.until(b, "found room", has(b))
}

// TestResizeIsInfeasible asks for more than the node has, and takes it back.
func TestResizeIsInfeasible(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	s.run(p)
	huge := resizedTo(p, "8", "64Mi")
	s.m.Upsert(huge)
	st := s.until(p, "was refused", pending(v1.PodReasonInfeasible, 2))
	if got := conditionOf(st, v1.PodResizePending).Message; got != "Node didn't have enough capacity: cpu, requested: 8000, capacity: 4000" {
		t.Errorf("message %q", got)
	}
	s.told("Warning ResizeInfeasible Pod resize Infeasible: {")
	back := resizedTo(huge, "1", "64Mi")
	s.m.Upsert(back)
	s.until(p, "took it back", has(back))
}

// TestResizeOrder gives room to the most important Pod first, however long others wait.
func TestResizeOrder(t *testing.T) {
	s := newStage(t)
	s.start()
	blocker, plain, vip := sized("blocker", "2", "64Mi"), sized("plain", "1", "64Mi"), sized("vip", "1", "64Mi")
	high := int32(1000)
	vip.Spec.Priority = &high
	s.run(blocker, plain, vip)
	plain, vip = resizedTo(plain, "2", "64Mi"), resizedTo(vip, "3", "64Mi")
	s.m.Upsert(plain)
	s.until(plain, "was put off", pending(v1.PodReasonDeferred, 2))
	s.m.Upsert(vip)
	s.until(vip, "was put off", pending(v1.PodReasonDeferred, 2))
	s.m.Upsert(deleted(blocker, 0))
	s.gone(blocker)
	s.until(vip, "found room", has(vip))
	st := s.until(plain, "waits on", func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizePending)
		return c != nil && c.Message == "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"
	})
	if st.ContainerStatuses[0].AllocatedResources.Cpu().String() != "1" {
		t.Errorf("allocated %v", st.ContainerStatuses[0].AllocatedResources)
	}
}

// TestResizeByRestart restarts a container whose policy says so, without back-off, also where it ends well and would
// not be started again.
func TestResizeByRestart(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
	p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{
		{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}, {ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer},
	}
	s.run(p)
	p = resizedTo(p, "2", "64Mi")
	s.m.Upsert(p)
	if st := s.until(p, "was resized", has(p)); st.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("more CPU restarted it: %+v", st.ContainerStatuses[0])
	}
	for i, memory := range []string{"128Mi", "32Mi"} {
		p = resizedTo(p, "2", memory)
		s.m.Upsert(p)
		st := s.until(p, "was restarted", func(st v1.PodStatus) bool { return has(p)(st) && running(st) })
		if st.ContainerStatuses[0].RestartCount != int32(i+1) {
			t.Errorf("restarts %d", st.ContainerStatuses[0].RestartCount)
		}
		if got, want := s.rt.Configs()["main"].Linux.Resources.MemoryLimitInBytes, p.Spec.Containers[0].Resources.Limits.Memory().Value(); got != want {
			t.Errorf("memory limit %d, want %d", got, want)
		}
		s.told("Normal Killing Container main resize requires restart")
		s.told("Normal ResizeCompleted")
	}
}

// TestResizeByRestartOnce: a container is not started anew over and over where the Pod's cgroup cannot be changed, and the
// cgroup follows once it can.
func TestResizeByRestartOnce(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	s.run(p)
	s.groups.fail(errors.New("no room above"))
	p = resizedTo(p, "1", "128Mi")
	s.m.Upsert(p)
	failing := func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError && running(st)
	}
	s.until(p, "was restarted and failed", func(st v1.PodStatus) bool { return failing(st) && st.ContainerStatuses[0].RestartCount > 0 })
	s.groups.fail(nil)
	st := s.until(p, "was resized", func(st v1.PodStatus) bool { return has(p)(st) && running(st) })
	if st.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("restarts %d", st.ContainerStatuses[0].RestartCount)
	}
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	if last := s.groups.calls[len(s.groups.calls)-1]; last != "Ensure 128" {
		t.Errorf("cgroup: %v", s.groups.calls)
	}
}

// TestResizeKeepsMemory never limits memory to less than is in use; with a limit that does again, all goes on.
func TestResizeKeepsMemory(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	s.run(p)
	s.rt.Uses("main", 40<<20)
	s.groups.uses(41 << 20)
	p = resizedTo(p, "1", "32Mi")
	s.m.Upsert(p)
	st := s.until(p, "failed to shrink", func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError
	})
	const message = `cannot decrease memory limits: [attempting to set pod memory limit (33554432) below current usage (42991616), ` +
		`attempting to set container "main" memory limit (33554432) below current usage (41943040)]`
	if c := conditionOf(st, v1.PodResizeInProgress); c.Message != message || c.ObservedGeneration != 2 {
		t.Errorf("condition %+v", c)
	}
	if c := st.ContainerStatuses[0]; c.Resources.Limits.Memory().String() != "64Mi" || c.AllocatedResources.Memory().String() != "32Mi" {
		t.Errorf("in force %v, allocated %v", c.Resources, c.AllocatedResources)
	}
	if got := s.rt.Configs()["main"].Linux.Resources.MemoryLimitInBytes; got != 64<<20 {
		t.Errorf("memory limit %d", got)
	}
	s.told("Warning ResizeError Pod resize error: {")
	p = resizedTo(p, "1", "64Mi")
	s.m.Upsert(p)
	s.until(p, "went back", has(p))
}

// TestResizeIsTriedAgain heals a runtime that fails once it works again.
func TestResizeIsTriedAgain(t *testing.T) {
	s := newStage(t)
	s.start()
	p := sized("a", "1", "64Mi")
	s.run(p)
	s.rt.Fail("UpdateContainerResources", errors.New("no luck"))
	p = resizedTo(p, "1", "128Mi")
	s.m.Upsert(p)
	s.until(p, "failed", func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizeInProgress)
		return c != nil && c.Message == "resize container main: no luck"
	})
	s.rt.Fail("UpdateContainerResources", nil)
	s.until(p, "was resized", has(p))
}

// TestAllocationOutlivesKubelet: what was put off stays so, and what was granted is brought about by the next process,
// whatever the API says meanwhile.
func TestAllocationOutlivesKubelet(t *testing.T) {
	s := newStage(t)
	s.start()
	a, b := sized("a", "2", "64Mi"), sized("b", "1", "64Mi")
	a.Spec.Containers[0].Name = "left"
	s.run(a, b)
	s.rt.Fail("UpdateContainerResources", errors.New("not now"))
	b = resizedTo(b, "2", "64Mi")
	s.m.Upsert(b)
	s.until(b, "was granted", func(st v1.PodStatus) bool {
		c := conditionOf(st, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError
	})
	s.stop()
	s.rt.Fail("UpdateContainerResources", nil)
	a = resizedTo(a, "3", "64Mi") // while nobody looks
	s.start(a, b)
	st := s.until(a, "was put off", pending(v1.PodReasonDeferred, 2))
	if c := st.ContainerStatuses[0]; c.Resources.Limits.Cpu().String() != "2" || c.AllocatedResources.Cpu().String() != "2" || c.RestartCount != 0 {
		t.Errorf("status %+v", c)
	}
	s.until(b, "was resized", has(b))
	// A container is started anew with what the Pod has, not with what it asks for.
	if err := s.rt.Exit("left", 1, "Error"); err != nil {
		t.Fatal(err)
	}
	s.until(a, "was started anew", func(st v1.PodStatus) bool { return running(st) && st.ContainerStatuses[0].RestartCount == 1 })
	if got := s.rt.Configs()["left"].Linux.Resources.CpuQuota; got != 200_000 {
		t.Errorf("CPU quota %d", got)
	}
	s.m.Upsert(deleted(b, 0))
	s.gone(b)
	s.until(a, "found room", has(a))
}

// podSized limits the Pod as a whole; its container has no limits.
func podSized(p *v1.Pod, cpu, memory string) *v1.Pod {
	next := p.DeepCopy()
	next.Generation++
	next.Spec.Resources = &v1.ResourceRequirements{Requests: amounts("cpu", cpu, "memory", memory), Limits: amounts("cpu", cpu, "memory", memory)}
	return next
}

// TestResizeOfPodLimits: a container without limits follows those of its Pod, in place or, once, by a restart.
func TestResizeOfPodLimits(t *testing.T) {
	for policy, restarts := range map[v1.ResourceResizeRestartPolicy]int32{v1.NotRequired: 0, v1.RestartContainer: 1} {
		s := newStage(t)
		s.start()
		p := podSized(onePod("a", func(p *v1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: policy}}
		}), "1", "64Mi")
		p.Generation = 1
		s.run(p)
		if got := s.rt.Configs()["main"].Linux.Resources; got.MemoryLimitInBytes != 64<<20 || got.CpuQuota != 100_000 {
			t.Errorf("%s: started with %v", policy, got)
		}
		p = podSized(p, "2", "128Mi")
		s.m.Upsert(p)
		st := s.until(p, "was resized", func(st v1.PodStatus) bool {
			return st.Resources != nil && st.Resources.Limits.Memory().Value() == 128<<20 && running(st) &&
				conditionOf(st, v1.PodResizePending) == nil && conditionOf(st, v1.PodResizeInProgress) == nil
		})
		if got := s.rt.Configs()["main"].Linux.Resources; got.MemoryLimitInBytes != 128<<20 || got.CpuQuota != 200_000 {
			t.Errorf("%s: resized to %v", policy, got)
		}
		if c := st.ContainerStatuses[0]; c.RestartCount != restarts || c.Resources != nil && len(c.Resources.Limits) != 0 {
			t.Errorf("%s: status %+v", policy, c)
		}
	}
}
