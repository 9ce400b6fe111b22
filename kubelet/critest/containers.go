package critest

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox implements CRI.
func (r *Runtime) RunPodSandbox(_ context.Context, cfg *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.did("RunPodSandbox", cfg.Metadata.Name); err != nil {
		return "", err
	}
	for _, s := range r.sandboxes { // names are reserved, as in containerd
		if m := s.config.Metadata; m.Uid == cfg.Metadata.Uid && m.Attempt == cfg.Metadata.Attempt {
			return "", fmt.Errorf("run sandbox of pod %s: attempt %d exists", m.Name, m.Attempt)
		}
	}
	s := &sandbox{id: r.id("sandbox"), config: cfg, ready: true, at: time.Now()}
	s.ip = fmt.Sprintf("10.0.0.%d", r.serial%250+1)
	r.sandboxes[s.id] = s
	r.event(&container{id: s.id, sandbox: s.id}, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return s.id, nil
}

// StopPodSandbox implements CRI.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	if err := r.did("StopPodSandbox", s.config.Metadata.Name); err != nil {
		return err
	}
	r.stop(s)
	return nil
}

// RemovePodSandbox implements CRI.
func (r *Runtime) RemovePodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	if err := r.did("RemovePodSandbox", s.config.Metadata.Name); err != nil {
		return err
	}
	for cid, c := range r.containers {
		if c.sandbox == id {
			r.exit(c, 137, "Error")
			delete(r.containers, cid)
		}
	}
	delete(r.sandboxes, id)
	r.touch()
	return nil
}

func state(s *sandbox) runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (r *Runtime) sandboxStatus(s *sandbox) *runtimeapi.PodSandboxStatus {
	st := &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: state(s), CreatedAt: s.at.UnixNano(), Labels: s.config.Labels,
		Annotations: s.config.Annotations, Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	if s.config.Linux.GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		st.Network.Ip = s.ip
	}
	return st
}

// PodSandboxStatus implements CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, fmt.Errorf("read sandbox %s: not found", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: r.sandboxStatus(s)}, nil
}

// ListPodSandbox implements CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for _, s := range r.sandboxes {
		if matches(s.config.Labels, f.GetLabelSelector()) {
			out = append(out, &runtimeapi.PodSandbox{
				Id: s.id, Metadata: s.config.Metadata, State: state(s), CreatedAt: s.at.UnixNano(), Labels: s.config.Labels,
				Annotations: s.config.Annotations,
			})
		}
	}
	return out, r.failures["ListPodSandbox"]
}

// CreateContainer implements CRI.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, cfg *runtimeapi.ContainerConfig, sc *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[sandboxID]
	if s == nil || !s.ready {
		return "", fmt.Errorf("create container %s: sandbox %s is not ready", cfg.Metadata.Name, sandboxID)
	}
	if err := r.did("CreateContainer", cfg.Metadata.Name); err != nil {
		return "", err
	}
	for _, c := range r.containers {
		if c.sandbox == sandboxID && c.config.Metadata.Name == cfg.Metadata.Name && c.config.Metadata.Attempt == cfg.Metadata.Attempt {
			return "", fmt.Errorf("create container %s: attempt %d exists", cfg.Metadata.Name, cfg.Metadata.Attempt)
		}
	}
	c := &container{id: r.id("container"), sandbox: sandboxID, config: cfg, logDir: sc.LogDirectory, created: time.Now(), exited: make(chan struct{})}
	r.containers[c.id] = c
	r.event(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.id, nil
}

// StartContainer implements CRI.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return fmt.Errorf("start container %s: not found", id)
	}
	if err := r.did("StartContainer", c.config.Metadata.Name); err != nil {
		c.state, c.code, c.reason, c.message, c.finished = runtimeapi.ContainerState_CONTAINER_EXITED, 128, "StartError", err.Error(), time.Now()
		close(c.exited)
		return err
	}
	c.state, c.started = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now()
	r.event(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	if r.brief[c.config.Metadata.Name] {
		r.exit(c, 0, "Completed")
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return ctx.Err()
	}
	return nil
}

// StopContainer implements CRI: TERM, then KILL after the timeout in seconds.
func (r *Runtime) StopContainer(ctx context.Context, id string, timeout int64) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return nil
	}
	if err := r.did("StopContainer", fmt.Sprintf("%s %ds", c.config.Metadata.Name, timeout)); err != nil {
		r.mu.Unlock()
		return err
	}
	r.touch()
	if !r.ignoreTerm[c.config.Metadata.Name] {
		r.exit(c, 0, "Completed")
	}
	r.mu.Unlock()
	t := time.NewTimer(time.Duration(timeout) * time.Second)
	defer t.Stop()
	select {
	case <-c.exited:
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		r.mu.Lock()
		r.exit(c, 137, "Error")
		r.mu.Unlock()
	}
	return nil
}

// RemoveContainer implements CRI.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	if err := r.did("RemoveContainer", c.config.Metadata.Name); err != nil {
		return err
	}
	r.exit(c, 137, "Error")
	delete(r.containers, id)
	r.touch()
	return nil
}

// ListContainers implements CRI.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Container
	for _, c := range r.containers {
		if !matches(c.config.Labels, f.GetLabelSelector()) || (f.GetState() != nil && f.State.State != c.state) {
			continue
		}
		out = append(out, &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created.UnixNano(),
			Labels: c.config.Labels, Annotations: c.config.Annotations, Image: c.config.Image,
		})
	}
	return out, r.failures["ListContainers"]
}

// ContainerStatus implements CRI.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("read container %s: not found", id)
	}
	s := &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created.UnixNano(), Labels: c.config.Labels,
		Annotations: c.config.Annotations, Image: c.config.Image, ImageRef: c.config.Image.Image, ExitCode: c.code,
		Reason: c.reason, Message: c.message, Mounts: c.config.Mounts, LogPath: filepath.Join(c.logDir, c.config.LogPath),
	}
	s.Resources = &runtimeapi.ContainerResources{Linux: c.config.GetLinux().GetResources()}
	if !c.started.IsZero() {
		s.StartedAt = c.started.UnixNano()
	}
	if !c.finished.IsZero() {
		s.FinishedAt = c.finished.UnixNano()
	}
	return &runtimeapi.ContainerStatusResponse{Status: s}, nil
}

// UpdateContainerResources implements CRI.
func (r *Runtime) UpdateContainerResources(_ context.Context, id string, res *runtimeapi.ContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return fmt.Errorf("update container %s: not found", id)
	}
	if err := r.did("UpdateContainerResources", c.config.Metadata.Name); err != nil {
		return err
	}
	c.config.Linux.Resources = res.Linux
	r.touch()
	return nil
}

// ContainerStats implements CRI, as far as memory goes.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("read statistics of container %s: not found", id)
	}
	return &runtimeapi.ContainerStats{Memory: &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: r.memory[c.config.Metadata.Name]}}}, nil
}
