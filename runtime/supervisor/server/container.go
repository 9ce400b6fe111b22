//go:build cgo

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// container is a container whose first process runs. When that ended, only its record on disk remains.
type container struct {
	id      string
	rec     record
	lib     *libcontainer.Container
	private bool     // has a PID namespace of its own, which dies with its first process
	pidfd   *os.File // of the first process; readable when it ended
	log     *logFile
	outputs []*output
	tty     bool

	mu sync.Mutex
	// unwanted says that it was deleted while it was being started.
	unwanted bool
	stdin    *os.File // write end for attachers; the master if the container has a terminal; nil without stdin
	terminal *os.File // the pty's master, or nil

	pumps sync.WaitGroup
	// turn gets one value from the goroutine that waits for the end: true if an upgrade parked it, false if the end came. ending
	// says that an upgrade has taken a false from it.
	turn   chan bool
	ending bool
	done   chan struct{} // closed when the exit is recorded and told

	abandoned chan struct{} // closed when a failed start is undone
}

// start creates and starts a container; it answers when the container's own program executes.
func (s *Server) start(req *protocol.Request) (*protocol.Response, error) {
	if req.Start == nil || req.ID == "" {
		return nil, coded(protocol.Invalid, "start: no container given")
	}
	c, err := s.launch(req.ID, req.Start)
	if err != nil {
		return nil, err
	}
	state := c.state()
	return &protocol.Response{Container: &state}, nil
}

// decodeSpec returns what a request to start says of its container, and what libcontainer makes of that.
func decodeSpec(id string, req *protocol.StartRequest) (*specs.Spec, *configs.Config, error) {
	var spec specs.Spec
	if err := json.Unmarshal(req.Spec, &spec); err != nil {
		return nil, nil, coded(protocol.Invalid, "decode container specification: %v", err)
	}
	if spec.Process == nil || spec.Linux == nil || spec.Root == nil {
		return nil, nil, coded(protocol.Invalid, "container specification lacks process, root or linux")
	}
	clampOOMScore(spec.Process)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, NoNewKeyring: false, Spec: &spec})
	if err != nil {
		return nil, nil, fmt.Errorf("convert container specification: %w", err)
	}
	return &spec, config, nil
}

func (s *Server) launch(id string, req *protocol.StartRequest) (_ *container, err error) {
	spec, config, err := decodeSpec(id, req)
	if err != nil {
		return nil, err
	}
	view := takeCgroupView(config)
	c := &container{
		id: id, tty: req.TTY, private: config.Namespaces.IsPrivate(configs.NEWPID), done: make(chan struct{}),
		abandoned: make(chan struct{}),
		rec: record{ID: id, Cgroup: spec.Linux.CgroupsPath, LogDir: req.LogDir, LogName: req.LogName, Stdin: req.Stdin,
			StdinOnce: req.StdinOnce, TTY: req.TTY, PrivatePID: config.Namespaces.IsPrivate(configs.NEWPID)},
	}
	if err := s.reserve(c); err != nil {
		return nil, err
	}
	// The record comes first: whatever happens from here on, a later supervisor finds the cgroup and clears it.
	if err := s.createRecord(&c.rec); err != nil {
		s.release(c)
		return nil, err
	}
	defer func() {
		if err != nil {
			s.abandon(c)
		}
	}()
	if c.log, err = openLogFile(req.LogDir, req.LogName, s.cfg.Logf); err != nil {
		return nil, err
	}
	if c.lib, err = libcontainer.Create(s.libDir, id, config); err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	process, err := newProcess(spec.Process)
	if err != nil {
		return nil, err
	}
	process.Init = true
	stdio, err := c.openStreams(process, req, config)
	if err != nil {
		return nil, err
	}
	defer stdio.release()
	if err := c.lib.Start(process); err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	stdio.close()
	if err := c.adoptProcess(process, stdio); err != nil {
		return nil, err
	}
	if err := view.mount(c.rec.Pid); err != nil {
		return nil, err
	}
	if c.isUnwanted() {
		return nil, coded(protocol.NotFound, "container %s was deleted while it was being started", id)
	}
	c.rec.StartedAt = time.Now()
	if err := s.writeRecord(&c.rec, false); err != nil {
		return nil, err
	}
	s.watch(c) // before the program runs: no output and no exit can be missed
	if err := c.lib.Exec(); err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	return c, nil
}

// adoptProcess takes over the started first process: its pidfd and, with a terminal, the master.
func (c *container) adoptProcess(process *libcontainer.Process, stdio *childStdio) error {
	pid, err := process.Pid()
	if err != nil {
		return fmt.Errorf("get pid of container: %w", err)
	}
	if c.pidfd, err = openPidfd(pid); err != nil {
		return err
	}
	c.rec.Pid = pid
	if !c.tty {
		return nil
	}
	master, err := stdio.receiveMaster()
	if err != nil {
		return err
	}
	c.terminal = master
	if c.rec.Stdin {
		c.stdin = master
	}
	c.outputs = []*output{newOutput("stdout", master, c.log)}
	return nil
}

// reserve enters c in the list of containers, or fails if its ID is taken.
func (s *Server) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.late, c.id) {
		return coded(protocol.NotFound, "container %s was deleted before it was started", c.id)
	}
	if _, ok := s.containers[c.id]; ok {
		return coded(protocol.AlreadyExists, "container %s runs already", c.id)
	}
	if _, err := os.Stat(s.recordPath(c.id)); err == nil {
		return coded(protocol.AlreadyExists, "container %s ran already", c.id)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Server) release(c *container) {
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	close(c.abandoned)
}

// abandon undoes a start that failed. A container that is watched already ends by its own watcher, and leaves no exit behind.
func (s *Server) abandon(c *container) {
	if c.watched() {
		if err := c.kill(); err != nil {
			s.cfg.Logf("kill container %s that failed to start: %v", c.id, err)
		}
		<-c.done
		if err := s.removeRecord(c.id); err != nil {
			s.cfg.Logf("forget container %s that failed to start: %v", c.id, err)
		}
		return
	}
	if c.pidfd != nil {
		if err := signalPidfd(c.pidfd, unix.SIGKILL); err == nil {
			if err := awaitPidfd(c.pidfd); err != nil {
				s.cfg.Logf("await container %s that failed to start: %v", c.id, err)
			}
			if _, err := reapPidfd(c.pidfd); err != nil {
				s.cfg.Logf("reap container %s that failed to start: %v", c.id, err)
			}
		}
		c.pidfd.Close()
	}
	for _, o := range c.outputs {
		o.file.Close()
	}
	if c.stdin != nil && c.stdin != c.terminal {
		c.stdin.Close()
	}
	if c.log != nil {
		c.log.close()
	}
	if c.lib != nil {
		if err := c.lib.Destroy(); err != nil {
			s.cfg.Logf("undo container %s that failed to start: %v", c.id, err)
		}
	}
	if err := s.removeRecord(c.id); err != nil {
		s.cfg.Logf("forget container %s that failed to start: %v", c.id, err)
	}
	s.release(c)
}

// watched reports whether a watcher goroutine owns c's end.
func (c *container) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.watched
}

func (c *container) state() protocol.ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.state()
}

// running returns a container whose first process has not been seen to end.
func (s *Server) running(id string) (*container, error) {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c != nil && c.watched() {
		return c, nil
	}
	if _, err := os.Stat(s.recordPath(id)); err == nil {
		return nil, coded(protocol.NotRunning, "container %s does not run", id)
	}
	return nil, coded(protocol.NotFound, "container %s is not known", id)
}

// signal reaches the first process; SIGKILL the whole container.
func (c *container) signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return c.kill()
	}
	if err := signalPidfd(c.pidfd, sig); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return coded(protocol.NotRunning, "container %s does not run", c.id)
		}
		return fmt.Errorf("signal container %s: %w", c.id, err)
	}
	return nil
}

func (c *container) kill() error {
	err := c.lib.Signal(unix.SIGKILL)
	if err == nil || errors.Is(err, libcontainer.ErrNotRunning) {
		return nil
	}
	return fmt.Errorf("kill container %s: %w", c.id, err)
}

// update changes cgroup limits; those that resources leaves out keep their value.
func (c *container) update(raw json.RawMessage) error {
	var r specs.LinuxResources
	if err := json.Unmarshal(raw, &r); err != nil {
		return coded(protocol.Invalid, "decode resources: %v", err)
	}
	config := c.lib.Config()
	group := *config.Cgroups
	merged := *group.Resources
	group.Resources = &merged
	config.Cgroups = &group
	applyResources(&merged, &r)
	if err := c.lib.Set(config); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// rememberedDeletes is how many IDs are remembered that were deleted without being known.
const rememberedDeletes = 256

// tooLate remembers an ID that was deleted without being known. Whoever asked for its start may have given up before that was read,
// and it may be read after the delete: the container would run, and nobody would know. IDs are not used again. The caller holds s.mu.
func (s *Server) tooLate(id string) {
	if slices.Contains(s.late, id) {
		return
	}
	if len(s.late) == rememberedDeletes {
		s.late = slices.Delete(s.late, 0, 1)
	}
	s.late = append(s.late, id)
}

func (c *container) isUnwanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unwanted
}

// delete kills what runs of a container, waits for its end and forgets it.
func (s *Server) delete(id string) error {
	s.mu.Lock()
	c := s.containers[id]
	if c == nil {
		if _, err := os.Stat(s.recordPath(id)); errors.Is(err, os.ErrNotExist) {
			s.tooLate(id)
		}
	}
	s.mu.Unlock()
	if c != nil {
		var err error
		if c.watched() {
			err = c.kill()
		} else {
			c.mu.Lock()
			c.unwanted = true
			c.mu.Unlock()
			// It is being started; without its processes that fails, and what fails is undone.
			err = clearGroup(c.rec.Cgroup)
		}
		if err != nil {
			return err
		}
		timeout := time.NewTimer(killTimeout)
		defer timeout.Stop()
		select {
		case <-c.done:
		case <-c.abandoned:
		case <-timeout.C:
			return fmt.Errorf("container %s did not end within %s of SIGKILL", id, killTimeout)
		}
	}
	return s.removeRecord(id)
}

func (s *Server) list() []protocol.ContainerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listLocked()
}

// listLocked merges the running containers with the records of the exited. Starting ones are left out: they are not yet there.
func (s *Server) listLocked() []protocol.ContainerState {
	var states []protocol.ContainerState
	records, err := s.readRecords()
	if err != nil {
		s.cfg.Logf("list containers: %v", err)
	}
	for i := range records {
		id := records[i].ID
		if c := s.containers[id]; c != nil {
			if c.watched() {
				states = append(states, c.state())
			}
			continue
		}
		states = append(states, records[i].state())
	}
	return states
}
