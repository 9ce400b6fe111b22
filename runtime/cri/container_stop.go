package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/supervisor"
)

// StopContainer asks a container to end and kills it after timeout seconds, at once if that is not positive. It returns when the
// container ended. It is idempotent, also for an unknown one.
func (s *Service) StopContainer(ctx context.Context, id string, timeout int64) error {
	c, err := s.container(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	e := c.get()
	if e.Phase != phaseRunning {
		return s.killContainer(ctx, c)
	}
	if timeout > 0 {
		// Without c.op: a kill by another caller must not wait for this one's grace.
		if err := s.cfg.Supervisor.Signal(ctx, id, stopSignal(e.StopSignal)); err != nil && !isGone(err) {
			return fmt.Errorf("stop container %s: %w", id, err)
		}
		grace := time.NewTimer(time.Duration(timeout) * time.Second)
		defer grace.Stop()
		select {
		case <-c.ended:
			return nil
		case <-grace.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return s.killContainer(ctx, c)
}

func isGone(err error) bool {
	return errors.Is(err, supervisor.ErrNotRunning) || errors.Is(err, supervisor.ErrNotFound)
}

// killContainer kills a container and waits for its recorded end.
func (s *Service) killContainer(ctx context.Context, c *container) error {
	c.op.Lock() // a start under way comes first
	defer c.op.Unlock()
	if c.get().Phase != phaseRunning {
		return nil
	}
	if err := s.cfg.Supervisor.Signal(ctx, c.id, unix.SIGKILL); err != nil && !isGone(err) {
		return fmt.Errorf("kill container %s: %w", c.id, err)
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill container %s: %w", c.id, context.Cause(ctx))
	}
}

// RemoveContainer kills the container if it runs, and forgets it. It is idempotent.
func (s *Service) RemoveContainer(ctx context.Context, id string) error {
	c, err := s.container(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return s.removeContainer(ctx, c)
}

func (s *Service) removeContainer(ctx context.Context, c *container) error {
	if err := s.killContainer(ctx, c); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := s.eraseContainer(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.id, c.sandboxID)
	return nil
}

// eraseContainer undoes all there is of a container, whatever state it is in. Its journal goes last.
func (s *Service) eraseContainer(ctx context.Context, c *container) error {
	if _, err := os.Stat(s.containerFile(c.id)); err == nil {
		if _, err := s.changeContainer(c, func(e *containerEntry) bool { e.Phase = phaseRemoving; return true }); err != nil {
			return err
		}
	}
	if err := s.halt("container removing"); err != nil {
		return err
	}
	if err := s.cfg.Supervisor.Delete(ctx, c.id); err != nil {
		return err
	}
	if err := clearRun(s.containerRun(c.id)); err != nil {
		return err
	}
	if err := s.halt("container unmounted"); err != nil {
		return err
	}
	for _, key := range append([]string{c.id}, c.get().Views...) {
		if err := s.cfg.Snapshots.Remove(ctx, key); err != nil {
			return err
		}
	}
	if err := os.Remove(s.containerFile(c.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove container journal: %w", err)
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	return nil
}
