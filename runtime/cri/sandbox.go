package cri

import (
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// phase is how far an object's life has come, as its journal says.
type phase string

const (
	phaseCreating phase = "creating" // recovery undoes it
	phaseReady    phase = "ready"    // a sandbox that runs
	phaseCreated  phase = "created"  // a container not yet started
	phaseRunning  phase = "running"
	phaseStopping phase = "stopping" // recovery finishes it
	phaseStopped  phase = "stopped"  // a sandbox that does not run any more, a container that ended
	phaseRemoving phase = "removing" // recovery finishes it
)

// sandboxEntry is a sandbox's journal.
type sandboxEntry struct {
	ID        string
	Phase     phase
	Config    packed[*runtimeapi.PodSandboxConfig]
	CreatedAt time.Time
	Handler   string
	IPs       []netip.Addr
	// Pause says that the sandbox has a first process, a container of its ID in the supervisor.
	Pause bool
}

type sandbox struct {
	id string
	// op serialises the operations on the sandbox; containers of it are made under its read side.
	op sync.RWMutex

	mu    sync.Mutex
	entry sandboxEntry
}

func (sb *sandbox) get() sandboxEntry {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.entry
}

// change edits the entry and writes it.
func (s *Service) changeSandbox(sb *sandbox, edit func(*sandboxEntry)) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	next := sb.entry
	edit(&next)
	if err := writeJournal(s.sandboxFile(sb.id), &next); err != nil {
		return err
	}
	sb.entry = next
	return nil
}

func (e *sandboxEntry) namespaces() *runtimeapi.NamespaceOption {
	return e.Config.Message.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (e *sandboxEntry) hostNetwork() bool {
	return e.namespaces().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

func (e *sandboxEntry) hostIPC() bool {
	return e.namespaces().GetIpc() == runtimeapi.NamespaceMode_NODE
}

func (e *sandboxEntry) sharedPID() bool {
	return e.namespaces().GetPid() == runtimeapi.NamespaceMode_POD
}

// nsPath is where a sandbox's namespace is pinned.
func (s *Service) nsPath(id, kind string) string { return filepath.Join(s.sandboxRun(id), kind) }

// memoryPath has what a sandbox's containers share and may write to, see mountMemory.
func (s *Service) memoryPath(id string) string { return filepath.Join(s.sandboxRun(id), "memory") }

// sandboxCgroup is the parent of the sandbox's containers' cgroups.
func (s *Service) sandboxCgroup(e *sandboxEntry) string {
	if parent := e.Config.Message.GetLinux().GetCgroupParent(); parent != "" {
		return parent
	}
	return filepath.Join(s.cfg.CgroupParent, e.ID)
}

func (s *Service) sandbox(id string) (*sandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sb := s.sandboxes[id]; sb != nil {
		return sb, nil
	}
	return nil, status.Errorf(codes.NotFound, "an error occurred when try to find sandbox %q: not found", id)
}

// containersOf lists the containers of a sandbox.
func (s *Service) containersOf(sandboxID string) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*container
	for _, c := range s.containers {
		if c.sandboxID == sandboxID {
			list = append(list, c)
		}
	}
	return list
}
