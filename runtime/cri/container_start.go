package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/supervisor"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// The exit codes of a container that could not be started, and of one that was killed by SIGKILL.
const (
	startErrorExitCode = 128
	killedExitCode     = 137
)

// StartContainer runs a created container; it returns when its program executes. A container that cannot be started counts as ended.
func (s *Service) StartContainer(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	e := c.get()
	if e.Phase != phaseCreated {
		return status.Errorf(codes.FailedPrecondition, "container %q is in %s state", id, e.state())
	}
	sb, err := s.sandbox(e.SandboxID)
	if err != nil {
		return err
	}
	sandbox := sb.get()
	if sandbox.Phase != phaseReady {
		return status.Errorf(codes.FailedPrecondition, "sandbox container %q is not running", e.SandboxID)
	}
	spec, err := os.ReadFile(s.specPath(id))
	if err != nil {
		return fmt.Errorf("read container specification: %w", err)
	}
	config := e.Config.Message
	request := &protocol.StartRequest{Spec: spec, Stdin: config.Stdin, StdinOnce: config.StdinOnce, TTY: config.Tty}
	if sandbox.Config.Message.LogDirectory != "" {
		request.LogDir, request.LogName = sandbox.Config.Message.LogDirectory, config.LogPath
	}
	started, err := s.cfg.Supervisor.Start(ctx, id, request)
	if errors.Is(err, supervisor.ErrAlreadyExists) {
		// An earlier attempt went further than its caller knew; the supervisor's events tell the rest.
		return status.Errorf(codes.AlreadyExists, "container %q was started before", id)
	}
	if err != nil {
		return s.failStart(ctx, c, err)
	}
	if err := s.halt("container started"); err != nil {
		return err
	}
	if err := s.markRunning(c, started); err != nil {
		return err
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, id, c.sandboxID)
	return nil
}

// markRunning records a start, unless the end was recorded already.
func (s *Service) markRunning(c *container, started *protocol.ContainerState) error {
	_, err := s.changeContainer(c, func(e *containerEntry) bool {
		if e.Phase != phaseCreated {
			return false
		}
		e.Phase, e.Pid, e.StartedAt = phaseRunning, started.Pid, started.StartedAt
		return true
	})
	return err
}

// failStart records a failed start as an end, which is how Kubernetes shows it. Should the answer have been lost rather than the
// start have failed, Delete makes it so. A start whose caller gives up has not failed: what there was of the container is killed.
func (s *Service) failStart(ctx context.Context, c *container, cause error) error {
	if err := s.cfg.Supervisor.Delete(context.WithoutCancel(ctx), c.id); err != nil {
		return errors.Join(fmt.Errorf("start container %s: %w", c.id, cause), err)
	}
	code, reason, message := int32(startErrorExitCode), reasonStartError, cause.Error()
	if ctx.Err() != nil {
		code, reason, message = killedExitCode, reasonError, ""
	}
	_, err := s.changeContainer(c, func(e *containerEntry) bool {
		if e.Phase != phaseCreated {
			return false
		}
		e.Phase, e.FinishedAt, e.ExitCode, e.Reason, e.Message = phaseStopped, time.Now(), code, reason, message
		if code == killedExitCode { // when it began to run, if it did, nobody has said
			e.StartedAt = e.FinishedAt
		}
		return true
	})
	if err != nil {
		s.log.Error(err, "Record failed start", "container", c.id)
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id, c.sandboxID)
	return fmt.Errorf("failed to start container %q: %w", c.id, cause)
}
