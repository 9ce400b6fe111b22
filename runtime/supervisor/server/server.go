//go:build cgo

// Package server is the container supervisor: the parent of all containers of a node, in a process of its own (`podinit supervise`) that
// outlives peapod. It runs libcontainer, owns the containers' pipes and terminals, writes their CRI log files, records exits before it
// tells anyone, and replaces its own program in place without losing a child.
//
// The process does nothing while nothing happens: goroutines wait for pidfds, pipes and the socket through the Go poller, no timer runs
// when it is idle, and read buffers are held only while there is something to read.
//
// The supervisor is no child subreaper. A container with a PID namespace of its own takes its processes along when it ends, and in a shared
// one (the Pod's, another container's) the namespace's init reaps; only the orphans of host-PID containers go to the machine's init. When
// such a container's first process ends, the rest of its cgroup is killed.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// Config says where the supervisor keeps its things.
type Config struct {
	// StateDir holds what must survive a reboot: one record per container, with its exit.
	StateDir string
	// RunDir (mode 0700) holds the socket, the lock and libcontainer's state. It is emptied by a reboot.
	RunDir string
	// Cgroup is the cgroup that the supervisor moves itself to, so that stopping the service that started it leaves it alone. It stays
	// where it is if empty.
	Cgroup string
	// Logf reports what no client can be told.
	Logf func(format string, args ...any)
}

// initProcessors is the variable that libcontainer passes on to the processes that become containers, and which says how many processors
// a Go program uses. One is enough for them: they do one thing after the other, and need not ask the kernel how many there are, start
// threads for the others and watch over those. It is not for the supervisor itself, which has read the variable before.
const initProcessors = "GOMAXPROCS"

// SocketName is the socket's name in RunDir.
const SocketName = "supervisor.sock"

// Server supervises containers. Make one with New, then call Run.
type Server struct {
	cfg      Config
	libDir   string // libcontainer's state
	build    string // SHA-256 of the executable
	upgrades int
	lock     *os.File // held while a supervisor of this RunDir lives
	listener *net.UnixListener
	idle     *trimmer

	// forking is held for reading while children are made and registered and while operations change containers, for writing by an
	// upgrade: it must see every child and every descriptor, and no child may inherit what the next program is to inherit.
	forking sync.RWMutex
	// settling is held for reading from the reaping of a child until its exit is recorded. It comes after forking in lock order:
	// operations that hold forking may wait for a container's end.
	settling sync.RWMutex

	mu          sync.Mutex
	containers  map[string]*container
	subscribers map[*subscriber]struct{}
	execs       map[*execSession]struct{}
	attaches    map[*attachment]struct{}
	// late are the last IDs that were deleted without being known: see tooLate.
	late []string

	stop chan struct{} // closed by Shutdown
}

// New returns a supervisor that has touched nothing yet.
func New(cfg Config) *Server {
	return &Server{
		cfg:         cfg,
		libDir:      filepath.Join(cfg.RunDir, "libcontainer"),
		containers:  map[string]*container{},
		subscribers: map[*subscriber]struct{}{},
		execs:       map[*execSession]struct{}{},
		attaches:    map[*attachment]struct{}{},
		stop:        make(chan struct{}),
		idle:        newTrimmer(),
	}
}

// Run recovers the containers of an earlier process, listens, calls ready, and serves until a Shutdown request. handover is the file that
// an upgrade left (see upgrade.go), or nil.
func (s *Server) Run(handover *os.File, ready func()) error {
	build, err := executableDigest()
	if err != nil {
		return err
	}
	s.build = build
	if err := os.Setenv(initProcessors, "1"); err != nil {
		return fmt.Errorf("set %s: %w", initProcessors, err)
	}
	for _, dir := range []string{s.cfg.StateDir, s.cfg.RunDir, s.libDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make supervisor directory: %w", err)
		}
	}
	if handover != nil {
		err = s.resume(handover)
	} else {
		err = s.begin()
	}
	if err != nil {
		return err
	}
	ready()
	go func() {
		<-s.stop
		s.listener.Close()
	}()
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept supervisor connection: %w", err)
		}
		go s.serve(conn)
	}
}

// begin starts from what is on disk: a first start, or one after an earlier supervisor was killed.
func (s *Server) begin() error {
	var err error
	if s.lock, err = takeLock(filepath.Join(s.cfg.RunDir, "supervisor.lock")); err != nil {
		return err
	}
	if err := s.enterCgroup(); err != nil {
		s.cfg.Logf("supervisor stays in its starter's cgroup: %v", err)
	}
	if err := s.recover(); err != nil {
		return err
	}
	path := filepath.Join(s.cfg.RunDir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old supervisor socket: %w", err)
	}
	// The directory is 0700, so the socket is out of reach before its own mode is set.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for peapod: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect supervisor socket: %w", err)
	}
	s.listener = listener
	return flock(s.lock, unix.LOCK_SH)
}

func (s *Server) serve(conn *net.UnixConn) {
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		s.cfg.Logf("refuse connection: %v", err)
		return
	}
	var req protocol.Request
	files, err := protocol.Receive(conn, &req)
	if err != nil {
		return // a probe of the socket, or a client that died
	}
	s.idle.begin()
	defer s.idle.end()
	defer protocol.CloseAll(files)
	if req.Version != protocol.Version && req.Op != protocol.Hello && req.Op != protocol.Upgrade {
		s.fail(conn, coded(protocol.VersionUnknown, "supervisor speaks protocol %d, not %d", protocol.Version, req.Version))
		return
	}
	switch req.Op {
	case protocol.Exec:
		s.serveExec(conn, &req, files)
	case protocol.Attach:
		s.serveAttach(conn, &req, files)
	case protocol.Subscribe:
		s.serveSubscribe(conn)
	case protocol.Upgrade:
		s.serveUpgrade(conn, files)
	case protocol.Shutdown:
		s.serveShutdown(conn)
	default:
		resp, err := s.handle(&req)
		if err != nil {
			s.fail(conn, err)
			return
		}
		s.reply(conn, resp)
	}
}

// handle serves the operations with one answer and no descriptors.
func (s *Server) handle(req *protocol.Request) (*protocol.Response, error) {
	s.forking.RLock()
	defer s.forking.RUnlock()
	switch req.Op {
	case protocol.Hello:
		return &protocol.Response{Hello: &protocol.HelloInfo{
			Version: protocol.Version, Build: s.build, Pid: os.Getpid(), Upgrades: s.upgrades,
		}}, nil
	case protocol.Start:
		return s.start(req)
	case protocol.List:
		return &protocol.Response{Containers: s.list()}, nil
	case protocol.Delete:
		return &protocol.Response{}, s.delete(req.ID)
	case protocol.Stats:
		return &protocol.Response{Stats: s.stats(req.IDs)}, nil
	}
	c, err := s.running(req.ID)
	if err != nil {
		return nil, err
	}
	switch req.Op {
	case protocol.Signal:
		return &protocol.Response{}, c.signal(unix.Signal(req.Signal))
	case protocol.Update:
		return &protocol.Response{}, c.update(req.Resources)
	case protocol.Pause:
		return &protocol.Response{}, c.lib.Pause()
	case protocol.Resume:
		return &protocol.Response{}, c.lib.Resume()
	case protocol.ReopenLog:
		return &protocol.Response{}, c.log.reopen()
	}
	return nil, coded(protocol.Invalid, "unknown operation %q", req.Op)
}

func (s *Server) reply(conn *net.UnixConn, resp *protocol.Response, files ...*os.File) bool {
	resp.Files = len(files)
	if err := protocol.Send(conn, resp, files...); err != nil {
		s.cfg.Logf("answer client: %v", err)
		return false
	}
	return true
}

func (s *Server) fail(conn *net.UnixConn, err error) {
	resp := &protocol.Response{Error: err.Error()}
	var c *codedError
	if errors.As(err, &c) {
		resp.Code = c.code
	}
	s.reply(conn, resp)
}

// serveShutdown kills all containers, waits until their exits are recorded, and ends the supervisor.
func (s *Server) serveShutdown(conn *net.UnixConn) {
	s.forking.Lock() // no new containers; never released, the process ends
	s.mu.Lock()
	var live []*container
	for _, c := range s.containers {
		live = append(live, c)
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	for _, c := range live {
		if err := c.kill(); err != nil {
			s.cfg.Logf("kill container %s: %v", c.id, err)
		}
	}
	for _, c := range live {
		select {
		case <-c.done:
		case <-ctx.Done():
			s.fail(conn, fmt.Errorf("container %s did not end within %s of SIGKILL", c.id, killTimeout))
			s.forking.Unlock()
			return
		}
	}
	s.reply(conn, &protocol.Response{})
	close(s.stop)
}

// killTimeout bounds the wait for a killed container: its processes may be stuck in the kernel.
const killTimeout = 30 * time.Second

// checkPeer admits only this process's own user; the socket's mode says the same, but costs nothing to check.
func checkPeer(conn *net.UnixConn) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("get peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := rc.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("get peer credentials: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("get peer credentials: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("peer has uid %d", cred.Uid)
	}
	return nil
}

// codedError is an error that the client acts on.
type codedError struct {
	code protocol.ErrorCode
	text string
}

func (e *codedError) Error() string { return e.text }

func coded(code protocol.ErrorCode, format string, args ...any) error {
	return &codedError{code: code, text: fmt.Sprintf(format, args...)}
}
