package pod

import (
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Snapshot is what the runtime has of one Pod at one instant.
type Snapshot struct {
	Sandboxes  []Sandbox   // newest first
	Containers []Container // newest first
}

// Sandbox is one incarnation of the Pod's shared environment.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	IPs       []string // primary first; empty with host network
}

// Container is one instance of a container.
type Container struct {
	ID           string
	SandboxID    string
	Name         string
	Hash         string // of what cannot change without a restart
	RestartCount int32
	Round        int32 // how often all containers of the Pod were restarted before it was made
	State        runtimeapi.ContainerState
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int32
	Reason       string
	Message      string
	Image        string
	ImageID      string
	LogPath      string
	StopSignal   *v1.Signal
	User         *v1.ContainerUser
}

// Running says whether the instance has a live process.
func (c *Container) Running() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

// Exited says whether the instance ran and ended.
func (c *Container) Exited() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

// unstarted says whether the instance was made and has not run.
func (c *Container) unstarted() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_CREATED
}

// sort orders both lists newest first, by attempt, then by time.
func (s *Snapshot) sort() {
	sort.SliceStable(s.Sandboxes, func(i, j int) bool {
		a, b := s.Sandboxes[i], s.Sandboxes[j]
		if a.Attempt != b.Attempt {
			return a.Attempt > b.Attempt
		}
		return a.CreatedAt.After(b.CreatedAt)
	})
	sort.SliceStable(s.Containers, func(i, j int) bool {
		a, b := s.Containers[i], s.Containers[j]
		if a.Name == b.Name && a.RestartCount != b.RestartCount {
			return a.RestartCount > b.RestartCount
		}
		return a.CreatedAt.After(b.CreatedAt)
	})
}

// Sandbox is the newest sandbox, nil if there is none.
func (s *Snapshot) Sandbox() *Sandbox {
	if len(s.Sandboxes) == 0 {
		return nil
	}
	return &s.Sandboxes[0]
}

// Newest is the newest instance of a container, nil if there is none.
func (s *Snapshot) Newest(name string) *Container { return s.nth(name, 0) }

// Previous is the instance before the newest.
func (s *Snapshot) Previous(name string) *Container { return s.nth(name, 1) }

func (s *Snapshot) nth(name string, n int) *Container {
	for i := range s.Containers {
		if s.Containers[i].Name != name {
			continue
		}
		if n == 0 {
			return &s.Containers[i]
		}
		n--
	}
	return nil
}

// active is the newest instance in the newest sandbox, nil if there is none.
func (s *Snapshot) active(name string) *Container {
	c, sb := s.Newest(name), s.Sandbox()
	if c == nil || sb == nil || c.SandboxID != sb.ID {
		return nil
	}
	return c
}
