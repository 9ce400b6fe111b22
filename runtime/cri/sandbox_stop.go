package cri

import (
	"context"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopPodSandbox kills the sandbox's containers and gives back its network and namespaces. It is idempotent, also for an unknown one.
func (s *Service) StopPodSandbox(ctx context.Context, id string) error {
	sb, err := s.sandbox(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	return s.stopSandbox(ctx, sb)
}

// stopSandbox needs sb.op.
func (s *Service) stopSandbox(ctx context.Context, sb *sandbox) error {
	if e := sb.get(); e.Phase == phaseStopped || e.Phase == phaseRemoving {
		return nil
	}
	if err := s.changeSandbox(sb, func(e *sandboxEntry) { e.Phase = phaseStopping }); err != nil {
		return err
	}
	for _, c := range s.containersOf(sb.id) {
		if err := s.killContainer(ctx, c); err != nil {
			return fmt.Errorf("stop sandbox %s: %w", sb.id, err)
		}
	}
	if err := s.halt("sandbox stop containers"); err != nil {
		return err
	}
	if err := s.releaseSandbox(ctx, sb); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", sb.id, err)
	}
	if err := s.changeSandbox(sb, func(e *sandboxEntry) { e.Phase = phaseStopped }); err != nil {
		return err
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.id, sb.id)
	return nil
}

// releaseSandbox gives back what a sandbox holds of the machine. Its containers do not run any more.
func (s *Service) releaseSandbox(ctx context.Context, sb *sandbox) error {
	e := sb.get()
	if e.Pause {
		if err := s.cfg.Supervisor.Delete(ctx, sb.id); err != nil {
			return err
		}
	}
	if !e.hostNetwork() {
		// Before the namespace goes, so that the network can take its end out of it.
		if err := s.cfg.Network.Teardown(ctx, sb.id); err != nil {
			return fmt.Errorf("tear down network: %w", err)
		}
		if err := s.halt("sandbox teardown"); err != nil {
			return err
		}
	}
	return clearRun(s.sandboxRun(sb.id))
}

// RemovePodSandbox stops the sandbox if it runs, and forgets it and its containers. It is idempotent.
func (s *Service) RemovePodSandbox(ctx context.Context, id string) error {
	sb, err := s.sandbox(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	if err := s.stopSandbox(ctx, sb); err != nil {
		return err
	}
	if err := s.eraseSandbox(ctx, sb); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	s.publishGone(sb)
	return nil
}

// eraseSandbox undoes all there is of a sandbox, whatever state it is in. Its journal goes last.
func (s *Service) eraseSandbox(ctx context.Context, sb *sandbox) error {
	if _, err := os.Stat(s.sandboxFile(sb.id)); err == nil {
		if err := s.changeSandbox(sb, func(e *sandboxEntry) { e.Phase = phaseRemoving }); err != nil {
			return err
		}
	}
	for _, c := range s.containersOf(sb.id) {
		if err := s.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := s.halt("sandbox remove containers"); err != nil {
		return err
	}
	if err := s.releaseSandbox(ctx, sb); err != nil {
		return err
	}
	e := sb.get()
	if e.Config.Message.GetLinux().GetCgroupParent() == "" {
		if err := removeCgroup(s.sandboxCgroup(&e)); err != nil {
			return err
		}
	}
	if err := os.Remove(s.sandboxFile(sb.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove sandbox journal: %w", err)
	}
	s.mu.Lock()
	delete(s.sandboxes, sb.id)
	s.mu.Unlock()
	return nil
}
