package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// amounts are what a container has: "request/limit" of CPU and of memory, either part may be missing.
type amounts struct{ cpu, memory string }

func (a amounts) requirements() (r corev1.ResourceRequirements) {
	put := func(name corev1.ResourceName, both string) {
		request, limit, _ := strings.Cut(both, "/")
		if request != "" {
			if r.Requests == nil {
				r.Requests = corev1.ResourceList{}
			}
			r.Requests[name] = resource.MustParse(request)
		}
		if limit != "" {
			if r.Limits == nil {
				r.Limits = corev1.ResourceList{}
			}
			r.Limits[name] = resource.MustParse(limit)
		}
	}
	put(corev1.ResourceCPU, a.cpu)
	put(corev1.ResourceMemory, a.memory)
	return r
}

// sizedPod is a Pod of busybox containers c1, c2, ... that have these amounts.
func sizedPod(name string, sizes ...amounts) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64)}}
	for i, a := range sizes {
		p.Spec.Containers = append(p.Spec.Containers, sleeper(fmt.Sprintf("c%d", i+1), a))
	}
	return p
}

func sleeper(name string, a amounts) corev1.Container {
	return corev1.Container{Name: name, Image: "busybox", Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"}, Resources: a.requirements()}
}

func (s *space) create(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	p, err := s.client.CoreV1().Pods(s.name).Create(s.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// resizePatch is a patch that gives containers other amounts, by name; "init/NAME" is an init container.
func resizePatch(t *testing.T, sizes map[string]amounts) []byte {
	t.Helper()
	spec := map[string][]map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(sizes)) { // in the order of the spec
		a, list := sizes[name], "containers"
		if init, ok := strings.CutPrefix(name, "init/"); ok {
			list, name = "initContainers", init
		}
		spec[list] = append(spec[list], map[string]any{"name": name, "resources": a.requirements()})
	}
	data, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *space) tryResize(pod string, sizes map[string]amounts) error {
	s.t.Helper()
	_, err := s.client.CoreV1().Pods(s.name).Patch(s.t.Context(), pod, types.StrategicMergePatchType, resizePatch(s.t, sizes), metav1.PatchOptions{}, "resize")
	return err
}

func (s *space) resize(pod string, sizes map[string]amounts) {
	s.t.Helper()
	if err := s.tryResize(pod, sizes); err != nil {
		s.t.Fatal(err)
	}
}

func podCondition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// settled says whether what the spec says is in force, and no resize is open.
func settled(p *corev1.Pod) bool {
	if podCondition(p, corev1.PodResizePending) != nil || podCondition(p, corev1.PodResizeInProgress) != nil || p.Status.ObservedGeneration != p.Generation {
		return false
	}
	same := func(containers []corev1.Container, statuses []corev1.ContainerStatus) bool {
		for _, c := range containers {
			for _, st := range statuses {
				if st.Name == c.Name && (st.State.Running == nil || st.Resources == nil ||
					!apiequality.Semantic.DeepEqual(*st.Resources, c.Resources) || !apiequality.Semantic.DeepEqual(st.AllocatedResources, c.Resources.Requests)) {
					return false
				}
			}
		}
		return len(containers) == len(statuses)
	}
	return same(p.Spec.Containers, p.Status.ContainerStatuses) && same(p.Spec.InitContainers, p.Status.InitContainerStatuses)
}

func (s *space) awaitSettled(pod string) *corev1.Pod {
	s.t.Helper()
	return s.awaitPod(pod, "as its spec says", settled)
}

// group is what a cgroup limits: bytes, microseconds of 100 ms, and cgroup v1's shares; -1 for no limit. Version 2 has no shares.
type group struct{ memory, quota, shares int64 }

// groupOf reads the cgroup of a running container, and that of its Pod.
func (s *space) groupOf(container corev1.ContainerStatus) (own, pod group) {
	s.t.Helper()
	id := strings.TrimPrefix(container.ContainerID, "peapod://")
	var dirs []string
	for _, depth := range []string{"", "*/"} { // the unified hierarchy, one of several
		for _, class := range []string{"*/", "*/*/"} {
			found, err := filepath.Glob("/sys/fs/cgroup/" + depth + "peapod-" + s.cluster.Instance.Name + "/kubepods/" + class + id)
			if err != nil {
				s.t.Fatal(err)
			}
			dirs = append(dirs, found...)
		}
	}
	if len(dirs) == 0 {
		s.t.Fatalf("container %s has no cgroup", id)
	}
	var parents []string
	for _, d := range dirs {
		parents = append(parents, filepath.Dir(d))
	}
	return s.readGroup(dirs), s.readGroup(parents)
}

func (s *space) readGroup(dirs []string) group {
	s.t.Helper()
	g := group{-1, -1, -1}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
		if err != nil || n > 1<<60 { // "max", or version 1's word for it
			return -1
		}
		return n
	}
	for _, dir := range dirs {
		for file, into := range map[string]*int64{
			"memory.limit_in_bytes": &g.memory, "memory.max": &g.memory, "cpu.cfs_quota_us": &g.quota, "cpu.max": &g.quota, "cpu.shares": &g.shares,
		} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				*into = number(string(b))
			}
		}
	}
	return g
}

// checkGroups compares the cgroups of all containers that run with what their spec says.
func (s *space) checkGroups(p *corev1.Pod) {
	s.t.Helper()
	check := func(containers []corev1.Container, statuses []corev1.ContainerStatus) {
		for _, c := range containers {
			for _, st := range statuses {
				if st.Name != c.Name || st.State.Running == nil {
					continue
				}
				got, _ := s.groupOf(st)
				want := wantGroup(c.Resources)
				if got.shares == -1 {
					want.shares = -1
				}
				equal(s.t, "cgroup of "+c.Name, got, want)
			}
		}
	}
	check(p.Spec.Containers, p.Status.ContainerStatuses)
	check(p.Spec.InitContainers, p.Status.InitContainerStatuses)
}

func wantGroup(r corev1.ResourceRequirements) group {
	g := group{-1, -1, 2}
	if limit := r.Limits.Memory().Value(); limit > 0 {
		g.memory = limit
	}
	if limit := r.Limits.Cpu().MilliValue(); limit > 0 {
		g.quota = max(limit*100, 1000)
	}
	if request := r.Requests.Cpu().MilliValue(); request > 0 {
		g.shares = max(request*1024/1000, 2)
	}
	return g
}

// TestResize resizes running Pods there and back, and reads what their cgroups then limit.
func TestResize(t *testing.T) {
	t.Parallel()
	small, big := amounts{"20m/20m", "35Mi/35Mi"}, amounts{"25m/25m", "40Mi/40Mi"}
	always, never := corev1.ContainerRestartPolicyAlways, corev1.RestartPolicyNever
	for _, test := range []struct {
		name     string
		pod      *corev1.Pod
		from, to map[string]amounts
		change   func(*corev1.Pod)
		restarts int32 // of c1 by each resize
		oneWay   bool  // requests and limits that were added cannot be taken away
	}{
		{name: "guaranteed", pod: sizedPod("guaranteed", small), from: map[string]amounts{"c1": small}, to: map[string]amounts{"c1": big}},
		{name: "opposite ways", pod: sizedPod("opposite", amounts{"20m/30m", "35Mi/45Mi"}), from: map[string]amounts{"c1": {"20m/30m", "35Mi/45Mi"}},
			to: map[string]amounts{"c1": {"15m/35m", "40Mi/40Mi"}}},
		{name: "three containers", pod: sizedPod("three", small, big, small), from: map[string]amounts{"c1": small, "c2": big, "c3": small},
			to: map[string]amounts{"c1": big, "c2": small, "c3": {"20m/20m", "45Mi/45Mi"}}},
		{name: "sidecar", pod: sizedPod("sidecar", small), from: map[string]amounts{"c1": small, "init/side": small}, to: map[string]amounts{"c1": big, "init/side": big},
			change: func(p *corev1.Pod) {
				side := sleeper("side", small)
				side.RestartPolicy = &always
				p.Spec.InitContainers = []corev1.Container{side}
			}},
		{name: "restart", pod: sizedPod("restart", small), from: map[string]amounts{"c1": small}, to: map[string]amounts{"c1": big}, restarts: 1,
			change: func(p *corev1.Pod) {
				p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure // its shell ends well
				p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}}
			}},
		{name: "added", pod: sizedPod("added", amounts{"20m", ""}, amounts{"", "35Mi"}, amounts{"20m", "35Mi"}), oneWay: true,
			to: map[string]amounts{"c1": {"25m/35m", ""}, "c2": {"20m", "30Mi/50Mi"}, "c3": {"20m", "30Mi"}}},
		{name: "equivalent", pod: sizedPod("equivalent", amounts{"2m/10m", ""}), from: map[string]amounts{"c1": {"2m/10m", ""}}, to: map[string]amounts{"c1": {"1m/5m", ""}},
			change: func(p *corev1.Pod) { p.Spec.RestartPolicy = never }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			if test.change != nil {
				test.change(test.pod)
			}
			name := s.create(test.pod).Name
			s.ready(name)
			p := s.awaitSettled(name)
			s.checkGroups(p)
			for i, sizes := range []map[string]amounts{test.to, test.from} {
				if i == 1 && test.oneWay {
					break
				}
				s.resize(name, sizes)
				generation := int64(i + 2)
				p := s.awaitPod(name, "resized", func(p *corev1.Pod) bool { return p.Generation == generation && settled(p) })
				s.checkGroups(p)
				equal(t, "restarts", p.Status.ContainerStatuses[0].RestartCount, test.restarts*int32(i+1))
				s.event(name, "ResizeCompleted", fmt.Sprintf(`"generation":%d}`, generation))
			}
		})
	}
}

// A Pod sees its new limits itself; kubectl patches and edits them; the subresource reads as the Pod.
func TestResizeByKubectl(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.create(sizedPod("p", amounts{"20m/30m", "35Mi/45Mi"}))
	s.ready("p")
	limit := func() string {
		return strings.TrimSpace(s.kubectl("exec", "p", "--", "sh", "-c", "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"))
	}
	equal(t, "limit in the container", limit(), "47185920")
	s.kubectl("patch", "pod", "p", "--subresource", "resize", "--patch", `{"spec":{"containers":[{"name":"c1","resources":{"limits":{"memory":"50Mi"}}}]}}`)
	s.awaitSettled("p")
	equal(t, "limit in the container", limit(), "52428800")
	edit := s.command("edit", "pod", "p", "--subresource", "resize")
	edit.Env = append(edit.Env, "KUBE_EDITOR=sed -i s/50Mi/55Mi/")
	if r := s.run(edit); r.code != 0 {
		t.Fatalf("kubectl edit: %s%s", r.stdout, r.stderr)
	}
	p := s.awaitSettled("p")
	equal(t, "limit in the container", limit(), "57671680")
	equal(t, "generation", p.Generation, 3)
	var read corev1.Pod
	if err := json.Unmarshal([]byte(s.kubectl("get", "pod", "p", "--subresource", "resize", "-o", "json")), &read); err != nil {
		t.Fatal(err)
	}
	if !apiequality.Semantic.DeepEqual(read.Spec, s.get("p").Spec) {
		t.Errorf("the subresource reads as %+v", read.Spec)
	}
	s.fails([]string{"patch", "pod", "p", "--patch", `{"spec":{"containers":[{"name":"c1","resources":{"limits":{"memory":"60Mi"}}}]}}`}, "pod updates may not change fields other than")
	for patch, text := range map[string]string{
		`{"spec":{"containers":[{"name":"c1","resources":{"limits":{"cpu":"20m","memory":"35Mi"}}}]}}`:                  "Pod QOS Class may not change as a result of resizing",
		`{"spec":{"containers":[{"name":"c1","resources":{"limits":{"memory":null}}}]}}`:                                "resource limits cannot be removed",
		`{"spec":{"containers":[{"name":"c1","resources":{"requests":{"ephemeral-storage":"3"}}}]}}`:                    "only cpu and memory resources are mutable",
		`{"spec":{"containers":[{"name":"c1","resources":{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}}]}}`:       "node didn't have enough allocatable resources: cpu, requested: 1000000",
		`{"spec":{"$setElementOrder/containers":[{"name":"x"},{"name":"c1"}],"containers":[{"name":"x","image":"y"}]}}`: "containers may not be added or removed on resize",
	} {
		s.fails([]string{"patch", "pod", "p", "--subresource", "resize", "--patch", patch}, text)
	}
}

// An ordinary init container is resized while it runs, and the limits of a Pod as a whole.
func TestResizeOfInitContainerAndPod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	small, big := amounts{"20m/20m", "35Mi/35Mi"}, amounts{"25m/25m", "40Mi/40Mi"}
	p := sizedPod("init", small)
	p.Spec.InitContainers = []corev1.Container{sleeper("first", small)}
	s.create(p)
	for _, a := range []amounts{small, big, small} {
		s.resize("init", map[string]amounts{"init/first": a})
		p := s.awaitPod("init", "resized", func(p *corev1.Pod) bool {
			st := p.Status.InitContainerStatuses
			return len(st) == 1 && st[0].State.Running != nil && st[0].Resources != nil && apiequality.Semantic.DeepEqual(*st[0].Resources, a.requirements()) &&
				podCondition(p, corev1.PodResizeInProgress) == nil
		})
		s.checkGroups(p)
		equal(t, "restarts", p.Status.InitContainerStatuses[0].RestartCount, 0)
	}

	whole := sizedPod("whole", amounts{})
	level := small.requirements()
	whole.Spec.Resources = &level
	s.create(whole)
	s.ready("whole")
	for _, a := range []amounts{big, small} {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"resources": a.requirements()}})
		if err != nil {
			t.Fatal(err)
		}
		s.kubectl("patch", "pod", "whole", "--subresource", "resize", "--patch", string(patch))
		p := s.awaitPod("whole", "resized", func(p *corev1.Pod) bool {
			return p.Status.Resources != nil && apiequality.Semantic.DeepEqual(*p.Status.Resources, a.requirements()) &&
				apiequality.Semantic.DeepEqual(p.Status.AllocatedResources, a.requirements().Requests) && podCondition(p, corev1.PodResizeInProgress) == nil
		})
		_, got := s.groupOf(only(t, p))
		want := wantGroup(a.requirements())
		if got.shares == -1 {
			want.shares = -1
		}
		equal(t, "cgroup of the Pod", got, want)
	}
}

// Memory is never limited to less than is in use: the resize fails, and one that fits heals it.
func TestResizeBelowUsage(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.create(sizedPod("p", amounts{"", "35Mi/35Mi"}))
	s.ready("p")
	s.resize("p", map[string]amounts{"c1": {"", "30Mi/30Mi"}})
	before := only(t, s.awaitSettled("p"))
	s.resize("p", map[string]amounts{"c1": {"", "10Ki/10Ki"}})
	p := s.awaitPod("p", "failing", func(p *corev1.Pod) bool {
		c := podCondition(p, corev1.PodResizeInProgress)
		return c != nil && c.Reason == corev1.PodReasonError
	})
	contains(t, "condition", podCondition(p, corev1.PodResizeInProgress).Message,
		"cannot decrease memory limits: [attempting to set pod memory limit (10240) below current usage (", `attempting to set container "c1" memory limit (10240) below current usage (`)
	s.event("p", "ResizeError", "Pod resize error: {")
	equal(t, "limit in force", only(t, p).Resources.Limits.Memory().String(), "30Mi")
	if own, _ := s.groupOf(only(t, p)); own.memory != 30<<20 {
		t.Errorf("cgroup %+v", own)
	}
	s.resize("p", map[string]amounts{"c1": {"", "35Mi/35Mi"}})
	after := only(t, s.awaitPod("p", "resized", func(p *corev1.Pod) bool { return p.Generation == 4 && settled(p) }))
	equal(t, "container", after.ContainerID, before.ContainerID)
}

// A resize that finds no room waits for it, also across kill -9, and has it when another Pod shrinks or goes. What waits
// takes no room from Pods to be scheduled once it shrinks.
func TestResizeWaitsForRoom(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	nodes, err := o.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	part := nodes.Items[0].Status.Allocatable.Cpu().MilliValue() / 10
	parts := func(n int64) amounts { return amounts{fmt.Sprintf("%dm/%dm", n*part, n*part), ""} }
	s.create(sizedPod("a", parts(5)))
	s.create(sizedPod("b", parts(3)))
	s.ready("a", "b")
	deferred := func(name string, generation int64) {
		t.Helper()
		p := s.awaitPod(name, "waiting for room", func(p *corev1.Pod) bool {
			c := podCondition(p, corev1.PodResizePending)
			return c != nil && c.Reason == corev1.PodReasonDeferred && c.ObservedGeneration == generation
		})
		contains(t, "condition", podCondition(p, corev1.PodResizePending).Message, "Node didn't have enough resource: cpu, requested: ")
		st := only(t, p)
		equal(t, "allocated", st.AllocatedResources.Cpu().MilliValue(), 3*part)
		equal(t, "in force", st.Resources.Limits.Cpu().MilliValue(), 3*part)
	}
	s.resize("b", map[string]amounts{"c1": parts(6)})
	deferred("b", 2)
	s.event("b", "ResizeDeferred", "Pod resize Deferred: {")
	o.killServer()
	o.restart()
	deferred("b", 2)
	if own, pod := s.groupOf(only(t, s.get("b"))); own.quota != 3*part*100 || pod.quota != 3*part*100 {
		t.Errorf("cgroups after the restart: %+v, %+v", own, pod)
	}
	s.resize("a", map[string]amounts{"c1": parts(2)})
	s.awaitSettled("a")
	s.checkGroups(s.awaitSettled("b"))

	s.resize("b", map[string]amounts{"c1": parts(9)})
	s.awaitPod("b", "waiting again", func(p *corev1.Pod) bool { return podCondition(p, corev1.PodResizePending) != nil })
	if err := o.client.CoreV1().Pods(s.name).Delete(context.Background(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.checkGroups(s.awaitPod("b", "resized", func(p *corev1.Pod) bool { return p.Generation == 3 && settled(p) }))

	s.create(sizedPod("c", parts(4)))
	s.awaitPod("c", "unschedulable", func(p *corev1.Pod) bool {
		c := podCondition(p, corev1.PodScheduled)
		return c != nil && c.Reason == corev1.PodReasonUnschedulable
	})
	s.resize("b", map[string]amounts{"c1": parts(5)})
	s.ready("c")
}
