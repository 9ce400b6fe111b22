package metrics

import (
	"context"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// timedRuntime counts and times what a container runtime is asked for. What it does not name is passed on uncounted: the stream of
// events, which lasts as long as the process does, and what this kubelet does not ask for.
type timedRuntime struct {
	internalapi.RuntimeService
	set *Set
}

// Runtime returns r, each of whose operations is counted.
func (s *Set) Runtime(r internalapi.RuntimeService) internalapi.RuntimeService {
	return &timedRuntime{r, s}
}

// operation ends the count of one that began then.
func (s *Set) operation(what string, began time.Time, err *error) {
	s.runtimeTotal.WithLabelValues(what).Inc()
	s.runtime.WithLabelValues(what).Observe(time.Since(began).Seconds())
	if *err != nil {
		s.runtimeErrors.WithLabelValues(what).Inc()
	}
}

// RunPodSandbox is counted by the runtime's handler, too.
func (r *timedRuntime) RunPodSandbox(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (id string, err error) {
	began := time.Now()
	defer r.set.operation("run_podsandbox", began, &err)
	id, err = r.RuntimeService.RunPodSandbox(ctx, c, handler)
	r.set.sandbox.WithLabelValues(handler).Observe(time.Since(began).Seconds())
	if err != nil {
		r.set.sandboxErrors.WithLabelValues(handler).Inc()
	}
	return id, err
}

// ExecSync fails with the code of the command, too.
func (r *timedRuntime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	defer r.set.operation("exec_sync", time.Now(), &err)
	return r.RuntimeService.ExecSync(ctx, id, cmd, timeout)
}

func (r *timedRuntime) Version(ctx context.Context, apiVersion string) (out *runtimeapi.VersionResponse, err error) {
	defer r.set.operation("version", time.Now(), &err)
	return r.RuntimeService.Version(ctx, apiVersion)
}

func (r *timedRuntime) Status(ctx context.Context, verbose bool) (out *runtimeapi.StatusResponse, err error) {
	defer r.set.operation("status", time.Now(), &err)
	return r.RuntimeService.Status(ctx, verbose)
}

func (r *timedRuntime) RuntimeConfig(ctx context.Context) (out *runtimeapi.RuntimeConfigResponse, err error) {
	defer r.set.operation("runtime_config", time.Now(), &err)
	return r.RuntimeService.RuntimeConfig(ctx)
}

func (r *timedRuntime) CreateContainer(ctx context.Context, sandbox string, c *runtimeapi.ContainerConfig, s *runtimeapi.PodSandboxConfig) (out string, err error) {
	defer r.set.operation("create_container", time.Now(), &err)
	return r.RuntimeService.CreateContainer(ctx, sandbox, c, s)
}

func (r *timedRuntime) StartContainer(ctx context.Context, id string) (err error) {
	defer r.set.operation("start_container", time.Now(), &err)
	return r.RuntimeService.StartContainer(ctx, id)
}

func (r *timedRuntime) StopContainer(ctx context.Context, id string, timeout int64) (err error) {
	defer r.set.operation("stop_container", time.Now(), &err)
	return r.RuntimeService.StopContainer(ctx, id, timeout)
}

func (r *timedRuntime) RemoveContainer(ctx context.Context, id string) (err error) {
	defer r.set.operation("remove_container", time.Now(), &err)
	return r.RuntimeService.RemoveContainer(ctx, id)
}

func (r *timedRuntime) ListContainers(ctx context.Context, f *runtimeapi.ContainerFilter) (out []*runtimeapi.Container, err error) {
	defer r.set.operation("list_containers", time.Now(), &err)
	return r.RuntimeService.ListContainers(ctx, f)
}

func (r *timedRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (out *runtimeapi.ContainerStatusResponse, err error) {
	defer r.set.operation("container_status", time.Now(), &err)
	return r.RuntimeService.ContainerStatus(ctx, id, verbose)
}

func (r *timedRuntime) UpdateContainerResources(ctx context.Context, id string, res *runtimeapi.ContainerResources) (err error) {
	defer r.set.operation("update_container", time.Now(), &err)
	return r.RuntimeService.UpdateContainerResources(ctx, id, res)
}

func (r *timedRuntime) ReopenContainerLog(ctx context.Context, id string) (err error) {
	defer r.set.operation("reopen_container_log", time.Now(), &err)
	return r.RuntimeService.ReopenContainerLog(ctx, id)
}

func (r *timedRuntime) Exec(ctx context.Context, req *runtimeapi.ExecRequest) (out *runtimeapi.ExecResponse, err error) {
	defer r.set.operation("exec", time.Now(), &err)
	return r.RuntimeService.Exec(ctx, req)
}

func (r *timedRuntime) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (out *runtimeapi.AttachResponse, err error) {
	defer r.set.operation("attach", time.Now(), &err)
	return r.RuntimeService.Attach(ctx, req)
}

func (r *timedRuntime) PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (out *runtimeapi.PortForwardResponse, err error) {
	defer r.set.operation("port_forward", time.Now(), &err)
	return r.RuntimeService.PortForward(ctx, req)
}

func (r *timedRuntime) StopPodSandbox(ctx context.Context, id string) (err error) {
	defer r.set.operation("stop_podsandbox", time.Now(), &err)
	return r.RuntimeService.StopPodSandbox(ctx, id)
}

func (r *timedRuntime) RemovePodSandbox(ctx context.Context, id string) (err error) {
	defer r.set.operation("remove_podsandbox", time.Now(), &err)
	return r.RuntimeService.RemovePodSandbox(ctx, id)
}

func (r *timedRuntime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (out *runtimeapi.PodSandboxStatusResponse, err error) {
	defer r.set.operation("podsandbox_status", time.Now(), &err)
	return r.RuntimeService.PodSandboxStatus(ctx, id, verbose)
}

func (r *timedRuntime) ListPodSandbox(ctx context.Context, f *runtimeapi.PodSandboxFilter) (out []*runtimeapi.PodSandbox, err error) {
	defer r.set.operation("list_podsandbox", time.Now(), &err)
	return r.RuntimeService.ListPodSandbox(ctx, f)
}

func (r *timedRuntime) ContainerStats(ctx context.Context, id string) (out *runtimeapi.ContainerStats, err error) {
	defer r.set.operation("container_stats", time.Now(), &err)
	return r.RuntimeService.ContainerStats(ctx, id)
}

func (r *timedRuntime) ListContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) (out []*runtimeapi.ContainerStats, err error) {
	defer r.set.operation("list_container_stats", time.Now(), &err)
	return r.RuntimeService.ListContainerStats(ctx, f)
}

func (r *timedRuntime) ListPodSandboxStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) (out []*runtimeapi.PodSandboxStats, err error) {
	defer r.set.operation("list_podsandbox_stats", time.Now(), &err)
	return r.RuntimeService.ListPodSandboxStats(ctx, f)
}
