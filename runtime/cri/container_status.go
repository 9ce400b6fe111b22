package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStatus tells how a container is.
func (s *Service) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: s.containerStatus(c)}
	if verbose {
		e := c.get()
		info, err := json.Marshal(map[string]any{"sandboxID": e.SandboxID, "pid": e.Pid, "rootfs": s.rootfs(id), "phase": e.Phase})
		if err != nil {
			return nil, fmt.Errorf("encode container info: %w", err)
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

func (s *Service) containerStatus(c *container) *runtimeapi.ContainerStatus {
	e := c.get()
	config := e.Config.Message
	st := &runtimeapi.ContainerStatus{
		Id: e.ID, Metadata: config.Metadata, State: e.state(), CreatedAt: e.CreatedAt.UnixNano(), Image: imageSpec(config),
		ImageRef: cmp.Or(e.ImageRef, e.ImageID), ImageId: e.ImageID, Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts,
		Resources:  &runtimeapi.ContainerResources{Linux: e.Resources.Message},
		StopSignal: criSignal(stopSignal(e.StopSignal)),
	}
	user := &runtimeapi.LinuxContainerUser{Uid: int64(e.User.UID), Gid: int64(e.User.GID)}
	for _, g := range e.User.AdditionalGids {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	st.User = &runtimeapi.ContainerUser{Linux: user}
	if sb, err := s.sandbox(e.SandboxID); err == nil {
		if dir := sb.get().Config.Message.LogDirectory; dir != "" && config.LogPath != "" {
			st.LogPath = filepath.Join(dir, config.LogPath)
		}
	}
	if !e.StartedAt.IsZero() {
		st.StartedAt = e.StartedAt.UnixNano()
	}
	if !e.FinishedAt.IsZero() {
		st.FinishedAt, st.ExitCode, st.Reason, st.Message = e.FinishedAt.UnixNano(), e.ExitCode, e.Reason, e.Message
	}
	return st
}

// imageSpec is the image as its user named it.
func imageSpec(config *runtimeapi.ContainerConfig) *runtimeapi.ImageSpec {
	spec := &runtimeapi.ImageSpec{
		Image: config.GetImage().GetImage(), UserSpecifiedImage: config.GetImage().GetUserSpecifiedImage(),
		Annotations: config.GetImage().GetAnnotations(), RuntimeHandler: config.GetImage().GetRuntimeHandler(),
	}
	if spec.UserSpecifiedImage != "" {
		spec.Image = spec.UserSpecifiedImage
	}
	return spec
}

// ListContainers lists the containers that the filter matches. One that is being made is not there yet.
func (s *Service) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*runtimeapi.Container
	for _, c := range s.containers {
		e := c.get()
		config := e.Config.Message
		if e.Phase == phaseCreating || (filter.GetId() != "" && filter.Id != e.ID) ||
			(filter.GetPodSandboxId() != "" && filter.PodSandboxId != e.SandboxID) ||
			(filter.GetState() != nil && filter.State.State != e.state()) || !matches(config.Labels, filter.GetLabelSelector()) {
			continue
		}
		list = append(list, &runtimeapi.Container{
			Id: e.ID, PodSandboxId: e.SandboxID, Metadata: config.Metadata, Image: imageSpec(config), ImageRef: cmp.Or(e.ImageRef, e.ImageID), ImageId: e.ImageID,
			State: e.state(), CreatedAt: e.CreatedAt.UnixNano(), Labels: config.Labels, Annotations: config.Annotations,
		})
	}
	return list, nil
}
