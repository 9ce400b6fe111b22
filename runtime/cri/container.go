package cri

import (
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/snapshot"
)

// containerEntry is a container's journal.
type containerEntry struct {
	ID        string
	SandboxID string
	Phase     phase
	Config    packed[*runtimeapi.ContainerConfig]
	// Resources are those in force, after updates.
	Resources packed[*runtimeapi.LinuxContainerResources]
	ImageID   string
	// ImageRef is the image's digest in the repository that it was asked for by, else its ID.
	ImageRef   string
	StopSignal string
	User       specs.User
	// Views are the snapshots behind image volumes, mounted below the container's run directory.
	Views     []string
	CreatedAt time.Time
	Pid       int
	StartedAt time.Time
	// Of the end.
	FinishedAt time.Time
	ExitCode   int32
	Reason     string
	Message    string
}

// Reasons of a container's end, as Kubernetes shows them.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOMKilled  = "OOMKilled"
	reasonStartError = "StartError"
	reasonUnknown    = "ContainerStatusUnknown"
)

type container struct {
	id        string
	sandboxID string
	// op serialises start, stop and remove.
	op sync.Mutex

	mu    sync.Mutex
	entry containerEntry
	// ended is closed when the phase becomes phaseStopped.
	ended chan struct{}

	// layer is the last measurement of the writable layer.
	layer struct {
		sync.Mutex
		usage snapshot.Usage
		at    time.Time
	}
}

func newContainer(e containerEntry) *container {
	c := &container{id: e.ID, sandboxID: e.SandboxID, entry: e, ended: make(chan struct{})}
	if e.Phase == phaseStopped {
		close(c.ended)
	}
	return c
}

func (c *container) get() containerEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entry
}

// changeContainer edits the entry and writes it. edit reports whether there is anything to change.
func (s *Service) changeContainer(c *container, edit func(*containerEntry) bool) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.entry
	if !edit(&next) {
		return false, nil
	}
	err = writeJournal(s.containerFile(c.id), &next)
	if err != nil && !(next.Phase == phaseStopped && c.entry.Phase != phaseStopped) {
		return false, err
	}
	// An end is true whether or not it could be written: the supervisor keeps it, and the next start hears of it again.
	if next.Phase == phaseStopped && c.entry.Phase != phaseStopped {
		select {
		case <-c.ended:
		default:
			close(c.ended)
		}
	}
	c.entry = next
	return true, err
}

func (s *Service) container(id string) (*container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "an error occurred when try to find container %q: not found", id)
}

// rootfs is where a container's root file system is mounted.
func (s *Service) rootfs(id string) string { return filepath.Join(s.containerRun(id), "rootfs") }

func (s *Service) specPath(id string) string { return filepath.Join(s.containerRun(id), "spec.json") }

func (e *containerEntry) state() runtimeapi.ContainerState {
	switch e.Phase {
	case phaseRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case phaseStopped, phaseRemoving:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}
