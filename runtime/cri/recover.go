package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// errHalt is what tests stop operations with.
var errHalt = errors.New("halted")

func isHalt(err error) bool { return errors.Is(err, errHalt) }

// load reads the journals. A file without a whole entry is the trace of a creation cut short; recover clears it.
func (s *Service) load() error {
	sandboxes, err := os.ReadDir(s.sandboxFile(""))
	if err != nil {
		return fmt.Errorf("read sandboxes: %w", err)
	}
	for _, d := range sandboxes {
		var e sandboxEntry
		if ok, err := readJournal(s.sandboxFile(d.Name()), &e); err != nil {
			return err
		} else if ok && e.ID == d.Name() && e.Config.Message.GetMetadata() != nil {
			s.sandboxes[e.ID] = &sandbox{id: e.ID, entry: e}
		}
	}
	containers, err := os.ReadDir(s.containerFile(""))
	if err != nil {
		return fmt.Errorf("read containers: %w", err)
	}
	for _, d := range containers {
		var e containerEntry
		if ok, err := readJournal(s.containerFile(d.Name()), &e); err != nil {
			return err
		} else if ok && e.ID == d.Name() && e.Config.Message.GetMetadata() != nil {
			s.containers[e.ID] = newContainer(e)
		}
	}
	return nil
}

// recover makes the machine agree with the journal: what was begun and not finished is undone, what was being stopped or removed is
// stopped and removed, and what no journal names goes. It calls follow when it knows the containers and before it stops sandboxes: theirs may
// run, and who kills one waits to hear of its end.
func (s *Service) recover(ctx context.Context, follow func()) error {
	states, err := s.cfg.Supervisor.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]protocol.ContainerState{}
	for _, st := range states {
		known[st.ID] = st
	}
	if err := s.recoverContainers(ctx, known); err != nil {
		return err
	}
	follow()
	if err := s.recoverSandboxes(ctx, known); err != nil {
		return err
	}
	return s.sweep(ctx, known)
}

func (s *Service) recoverContainers(ctx context.Context, known map[string]protocol.ContainerState) error {
	for _, c := range s.allContainers() {
		e := c.get()
		_, sandboxExists := s.sandboxes[e.SandboxID]
		if e.Phase == phaseCreating || e.Phase == phaseRemoving || !sandboxExists {
			if err := s.eraseContainer(ctx, c); err != nil {
				return err
			}
			continue
		}
		st, ok := known[c.id]
		switch {
		case ok:
			s.observe(st)
		case e.Phase == phaseRunning:
			s.loseContainer(c)
		}
	}
	return nil
}

func (s *Service) recoverSandboxes(ctx context.Context, known map[string]protocol.ContainerState) error {
	for _, sb := range s.allSandboxes() {
		e := sb.get()
		switch e.Phase {
		case phaseCreating, phaseRemoving:
			if err := s.eraseSandbox(ctx, sb); err != nil {
				return err
			}
		case phaseStopping:
			if err := s.stopSandbox(ctx, sb); err != nil {
				return err
			}
		case phaseReady:
			pause, ok := known[sb.id]
			if !s.intact(&e) || (e.Pause && (!ok || pause.Exit != nil)) {
				s.log.Info("Sandbox was lost", "sandbox", sb.id)
				if err := s.stopSandbox(ctx, sb); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// intact reports whether the sandbox's namespaces are still there: a reboot takes them. So must be its network: without a journal of
// that, others would be given its addresses.
func (s *Service) intact(e *sandboxEntry) bool {
	if !e.hostNetwork() && len(s.cfg.Network.Addresses(e.ID)) == 0 {
		return false
	}
	if !e.hostNetwork() && !(isPinned(s.nsPath(e.ID, "net")) && isPinned(s.nsPath(e.ID, "uts"))) {
		return false
	}
	if !e.hostIPC() && !isPinned(s.nsPath(e.ID, "ipc")) {
		return false
	}
	if e.users().Private() && !isPinned(s.nsPath(e.ID, "user")) {
		return false
	}
	if e.hostNetwork() && e.hostIPC() {
		_, err := os.Stat(s.sandboxRun(e.ID)) // nothing to lose but this mark
		return err == nil
	}
	return true
}

// sweep removes what nobody owns: journals without an entry, mounts, processes, snapshots.
func (s *Service) sweep(ctx context.Context, known map[string]protocol.ContainerState) error {
	for id := range known {
		if !s.owns(id) {
			if err := s.cfg.Supervisor.Delete(ctx, id); err != nil {
				return err
			}
		}
	}
	for _, dirs := range []struct{ data, run func(string) string }{{s.sandboxFile, s.sandboxRun}, {s.containerFile, s.containerRun}} {
		for _, dir := range []func(string) string{dirs.run, dirs.data} {
			entries, err := os.ReadDir(dir(""))
			if err != nil {
				return fmt.Errorf("read runtime directory: %w", err)
			}
			for _, d := range entries {
				if s.owns(d.Name()) {
					continue
				}
				if err := clearRun(dirs.run(d.Name())); err != nil {
					return err
				}
				if err := os.RemoveAll(dirs.data(d.Name())); err != nil {
					return fmt.Errorf("sweep runtime directory: %w", err)
				}
			}
		}
	}
	keys, err := s.cfg.Snapshots.List(ctx)
	if err != nil {
		return err
	}
	owned := map[string]bool{}
	for _, c := range s.allContainers() {
		owned[c.id] = true
		for _, view := range c.get().Views {
			owned[view] = true
		}
	}
	for _, key := range keys {
		if !owned[key] {
			if err := s.cfg.Snapshots.Remove(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) owns(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sandboxes[id] != nil || s.containers[id] != nil
}

func (s *Service) allContainers() []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		list = append(list, c)
	}
	return list
}

func (s *Service) allSandboxes() []*sandbox {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		list = append(list, sb)
	}
	return list
}

// follow keeps the containers' states up to date, until ctx ends.
func (s *Service) follow(ctx context.Context) {
	seen := map[string]bool{}
	s.cfg.Supervisor.Run(ctx,
		func(st protocol.ContainerState) {
			seen[st.ID] = true
			s.observe(st)
		},
		func() {
			s.findLost(ctx, seen)
			seen = map[string]bool{}
		},
		func(err error) { s.log.Error(err, "Container supervisor is out of reach; trying again") })
}

// findLost ends the containers that the supervisor does not know. Whether one is really unknown, or was started after the supervisor
// listed, a second look tells.
func (s *Service) findLost(ctx context.Context, seen map[string]bool) {
	var missing []*container
	for _, c := range s.allContainers() {
		if !seen[c.id] && c.get().Phase == phaseRunning {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return
	}
	states, err := s.cfg.Supervisor.List(ctx)
	if err != nil {
		return // the connection is lost again, and so this will be called again
	}
	for _, st := range states {
		seen[st.ID] = true
	}
	for _, c := range missing {
		if !seen[c.id] && c.get().Phase == phaseRunning {
			s.loseContainer(c)
		}
	}
}

// observe takes in what the supervisor says of a container. Hearing it twice is no harm.
func (s *Service) observe(st protocol.ContainerState) {
	s.mu.RLock()
	c, sb := s.containers[st.ID], s.sandboxes[st.ID]
	s.mu.RUnlock()
	switch {
	case sb != nil:
		if st.Exit != nil {
			s.losePause(sb)
		}
	case c == nil:
	case st.Exit == nil:
		if err := s.markRunning(c, &st); err != nil {
			s.log.Error(err, "Record start", "container", c.id)
		}
	default:
		s.endContainer(c, &st)
	}
}

// endContainer records an end that the supervisor reports.
func (s *Service) endContainer(c *container, st *protocol.ContainerState) {
	exit := st.Exit
	changed, err := s.changeContainer(c, func(e *containerEntry) bool {
		if e.Phase != phaseRunning && e.Phase != phaseCreated {
			return false
		}
		e.Phase, e.Pid, e.StartedAt = phaseStopped, 0, st.StartedAt
		e.FinishedAt, e.ExitCode = exit.FinishedAt, int32(exit.Code)
		switch {
		case exit.Unknown:
			e.Reason = reasonUnknown
		case exit.OOM:
			e.Reason = reasonOOMKilled
		case exit.Code == 0:
			e.Reason = reasonCompleted
		default:
			e.Reason = reasonError
		}
		return true
	})
	if err != nil {
		s.log.Error(err, "Record end", "container", c.id)
	}
	if changed {
		s.publish(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id, c.sandboxID)
	}
}

// loseContainer records the end of a container that nobody saw.
func (s *Service) loseContainer(c *container) {
	e := c.get()
	s.endContainer(c, &protocol.ContainerState{
		ID: c.id, StartedAt: e.StartedAt,
		Exit: &protocol.ExitState{Code: int(unknownExitCode), Unknown: true, FinishedAt: time.Now()},
	})
}

// unknownExitCode is the exit code of a container whose end nobody saw.
const unknownExitCode = 255

// losePause takes in that a sandbox's first process ended: with it ended every process of the Pod, and nothing can join any more.
func (s *Service) losePause(sb *sandbox) {
	sb.mu.Lock()
	if sb.entry.Phase != phaseReady {
		sb.mu.Unlock()
		return
	}
	sb.mu.Unlock()
	if err := s.changeSandbox(sb, func(e *sandboxEntry) {
		if e.Phase == phaseReady {
			e.Phase = phaseStopping
		}
	}); err != nil {
		s.log.Error(err, "Record end of sandbox", "sandbox", sb.id)
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.id, sb.id)
}
