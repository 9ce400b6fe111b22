package pod

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// Limits are what of a container's resources can change while it runs.
type Limits struct{ CPUShares, CPUQuota, Memory int64 }

// limitsOf reads what the runtime says it enforces; nil if it does not say.
func limitsOf(r *runtimeapi.LinuxContainerResources) *Limits {
	if r == nil || r.CpuShares == 0 {
		return nil
	}
	return &Limits{CPUShares: r.CpuShares, CPUQuota: max(r.CpuQuota, 0), Memory: max(r.MemoryLimitInBytes, 0)}
}

// wantedLimits are those that the spec asks for.
func wantedLimits(c *v1.Container) Limits {
	r := criconfig.Limits(c)
	return Limits{CPUShares: r.CpuShares, CPUQuota: r.CpuQuota, Memory: r.MemoryLimitInBytes}
}

// differs says whether a running instance has other limits than its spec. A
// memory limit cannot be taken off while it runs.
func differs(c *v1.Container, last *Container) bool {
	if !last.Running() || last.Limits == nil {
		return false
	}
	want := wantedLimits(c)
	if want.Memory == 0 {
		want.Memory = last.Limits.Memory
	}
	return want != *last.Limits
}

// resize brings a running instance's limits to its spec, in place or, where
// the spec asks for it, by a restart.
func (in *Input) resize(d *Decision, c *v1.Container, last *Container) {
	if !differs(c, last) {
		return
	}
	want := wantedLimits(c)
	for _, p := range c.ResizePolicy {
		cpu := p.ResourceName == v1.ResourceCPU && (want.CPUShares != last.Limits.CPUShares || want.CPUQuota != last.Limits.CPUQuota)
		memory := p.ResourceName == v1.ResourceMemory && want.Memory != last.Limits.Memory
		if p.RestartPolicy == v1.RestartContainer && (cpu || memory) {
			in.restart(d, c, last, nil, fmt.Sprintf("Container %s resize requires restart", c.Name))
			return
		}
	}
	key := fmt.Sprintf("resize/%s/%d/%d/%d", last.ID, want.CPUShares, want.CPUQuota, want.Memory)
	// Once it was done, a runtime that reports other numbers rounds them.
	if !in.Done[key] && !in.blocked(d, key) {
		d.act(Action{Kind: ResizeContainer, Key: key, Container: c.Name, ID: last.ID})
	}
}

// resizing is the condition of a resize under way, nil if there is none.
func (in *Input) resizing() *v1.PodCondition {
	if in.State >= Stopping {
		return nil
	}
	for i := range in.Runtime.Containers {
		last := &in.Runtime.Containers[i]
		c := in.container(last.Name)
		if c == nil || !differs(c, last) {
			continue
		}
		cond := &v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue}
		for key, f := range in.Failures {
			if strings.HasPrefix(key, "resize/"+last.ID+"/") {
				cond.Reason, cond.Message = v1.PodReasonError, f.Message
			}
		}
		if !in.resized(last.ID) || cond.Reason != "" {
			return cond
		}
	}
	return nil
}

// resized says whether a resize of the instance ended well.
func (in *Input) resized(id string) bool {
	for key := range in.Done {
		if strings.HasPrefix(key, "resize/"+id+"/") {
			return true
		}
	}
	return false
}

// resizeContainer changes the Pod's own cgroup, then the container's.
func (w *worker) resizeContainer(ctx context.Context, pod *v1.Pod, a Action) error {
	c := FindContainer(pod, a.Container)
	if c == nil {
		return fmt.Errorf("resize container %s: no such container", a.Container)
	}
	node, err := w.m.cfg.Node()
	if err != nil {
		return err
	}
	if err := w.m.cfg.Cgroups.Ensure(pod); err != nil {
		return err
	}
	return w.m.cfg.Runtime.UpdateContainerResources(ctx, a.ID, &runtimeapi.ContainerResources{
		Linux: criconfig.ContainerResources(pod, c, node),
	})
}
