package cri

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/oci"
)

// UpdateContainerResources changes the cgroup limits of a running container. What is zero stays as it is.
func (s *Service) UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	wanted := resources.GetLinux()
	if wanted == nil {
		return nil
	}
	c.op.Lock()
	defer c.op.Unlock()
	if e := c.get(); e.Phase != phaseRunning {
		return status.Errorf(codes.FailedPrecondition, "container %q is in %s state", id, e.state())
	}
	if err := s.cfg.Supervisor.Update(ctx, id, oci.Resources(wanted, s.host)); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	_, err = s.changeContainer(c, func(e *containerEntry) bool {
		merged := proto.Clone(e.Resources.Message).(*runtimeapi.LinuxContainerResources)
		proto.Merge(merged, wanted)
		merged.HugepageLimits = e.Resources.Message.HugepageLimits
		if len(wanted.HugepageLimits) > 0 {
			merged.HugepageLimits = wanted.HugepageLimits
		}
		e.Resources.Message = merged
		return true
	})
	return err
}

// ReopenContainerLog opens the container's log file anew, after the old one was renamed.
func (s *Service) ReopenContainerLog(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if c.get().Phase != phaseRunning {
		return status.Errorf(codes.FailedPrecondition, "container %q is not running", id)
	}
	return s.cfg.Supervisor.ReopenLog(ctx, id)
}

// running returns a container that runs, or says what it does instead.
func (s *Service) running(id string) (*container, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if e := c.get(); e.Phase != phaseRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container is in %s state", e.state())
	}
	return c, nil
}
