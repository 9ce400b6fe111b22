package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/allocation"
	"github.com/peapod/peapod/kubelet/criconfig"
)

// resizePod brings the Pod's cgroup and its running containers from what is in
// force to what the Pod's spec says, without a restart: first the cgroup gets
// the wider of both, then the containers change, those that shrink before those
// that grow, then the cgroup gets what it is to have. generation is whose
// resources these are. Memory is never limited to
// less than is in use, which would kill. Idempotent.
func (w *worker) resizePod(ctx context.Context, pod *v1.Pod, snapshot *Snapshot, generation int64) error {
	record := w.allocation()
	if record == nil {
		return errors.New("resize pod: nothing was allocated")
	}
	from, to := record.Actuated, allocation.Of(pod)
	node, err := w.m.cfg.Node()
	if err != nil {
		return err
	}
	var changed []*Container
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if last := snapshot.active(c.Name); last.Running() && !from.Same(to, c.Name) {
			changed = append(changed, last)
		}
	}
	slices.SortStableFunc(changed, func(a, b *Container) int {
		return rank(from, to, a.Name) - rank(from, to, b.Name)
	})
	before := from.Apply(pod)
	if err := w.memoryFits(ctx, before, pod, changed, from, to); err != nil {
		return err
	}
	if err := w.m.cfg.Cgroups.Widen(before, pod); err != nil {
		return err
	}
	for _, last := range changed {
		err := w.m.cfg.Runtime.UpdateContainerResources(ctx, last.ID, &runtimeapi.ContainerResources{
			Linux: criconfig.ContainerResources(pod, FindContainer(pod, last.Name), node),
		})
		if err != nil {
			return fmt.Errorf("resize container %s: %w", last.Name, err)
		}
		// What comes next begins from here, should the rest fail.
		if err := w.record(func(r *allocation.Record) { r.Actuated = r.Actuated.With(last.Name, to) }, false); err != nil {
			return err
		}
	}
	if err := w.m.cfg.Cgroups.Ensure(pod); err != nil {
		return err
	}
	return w.record(func(r *allocation.Record) { r.Actuated, r.Settled = to, generation }, true)
}

// rank is 0 for a container that shrinks in anything, 1 for others.
func rank(from, to allocation.Resources, name string) int {
	if allocation.Shrinks(from.Of(name), to.Of(name)) {
		return 0
	}
	return 1
}

// memoryFits checks that no memory limit goes below what is in use. Between the
// look and the change the use may rise; that the kernel settles.
func (w *worker) memoryFits(ctx context.Context, before, after *v1.Pod, changed []*Container, from, to allocation.Resources) error {
	var problems []string
	if limit, old := w.m.cfg.Cgroups.MemoryLimit(after), w.m.cfg.Cgroups.MemoryLimit(before); limit > 0 && (old == 0 || limit < old) {
		used, err := w.m.cfg.Cgroups.Memory(after)
		if err != nil {
			return err
		}
		if limit <= used {
			problems = append(problems, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", limit, used))
		}
	}
	for _, c := range changed {
		old, had := from.Of(c.Name).Limits[v1.ResourceMemory]
		limit, has := to.Of(c.Name).Limits[v1.ResourceMemory]
		if !has || (had && limit.Cmp(old) >= 0) {
			continue
		}
		stats, err := w.m.cfg.Runtime.ContainerStats(ctx, c.ID)
		if err != nil {
			return fmt.Errorf("read memory of container %s: %w", c.Name, err)
		}
		if used := int64(stats.GetMemory().GetUsageBytes().GetValue()); limit.Value() <= used {
			problems = append(problems, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Name, limit.Value(), used))
		}
	}
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", problems[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(problems, ", "))
}

// allocation is what the Pod has, nil before it was admitted. It is shared: read
// only.
func (w *worker) allocation() *allocation.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allocated
}

// given is the Pod with what it has in place of what it asks for.
func (w *worker) given(pod *v1.Pod) *v1.Pod {
	if have := w.allocation(); have != nil {
		return have.Allocated.Apply(pod)
	}
	return pod
}

// record changes what is kept about the Pod's resources, on disk first. sync: it
// has to outlive the machine too.
func (w *worker) record(change func(*allocation.Record), sync bool) error {
	w.recording.Lock()
	defer w.recording.Unlock()
	next := allocation.Record{}
	if old := w.allocation(); old != nil {
		next = *old
	}
	change(&next)
	if err := w.m.allocations.Save(w.uid, &next, sync); err != nil {
		return err
	}
	w.update(func() { w.allocated = &next })
	return nil
}

// recordAdmission records that the Pod has what its spec says, unless it is known to
// have something.
func (w *worker) recordAdmission(pod *v1.Pod) error {
	if w.allocation() != nil {
		return nil
	}
	have := allocation.Of(pod)
	return w.record(func(r *allocation.Record) {
		r.Generation, r.Settled, r.Allocated, r.Actuated = pod.Generation, pod.Generation, have, have
	}, false)
}

// recordStart records what a container of the Pod was started with.
func (w *worker) recordStart(pod *v1.Pod, c *v1.Container) error {
	have := w.allocation()
	if have == nil {
		return nil
	}
	to := allocation.Of(pod)
	if _, ok := have.Actuated.Containers[c.Name]; !ok || have.Actuated.Same(to, c.Name) {
		return nil
	}
	return w.record(func(r *allocation.Record) { r.Actuated = r.Actuated.With(c.Name, to) }, false)
}

// noteResizeError says that what is allocated could not be brought about.
func (w *worker) noteResizeError(pod *v1.Pod, problem string) {
	if have := w.allocation(); have != nil {
		w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "ResizeError",
			Message: allocation.Message("Pod resize error", have.Allocated.Apply(pod), have.Generation, problem)})
	}
}
