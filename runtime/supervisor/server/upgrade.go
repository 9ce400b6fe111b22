//go:build cgo

package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// HandoverEnv names the variable with the number of the descriptor that holds what an upgrade hands to the next program.
const HandoverEnv = "PODINIT_HANDOVER"

// handover is what the next program needs to carry on. Numbers are descriptors that it inherits; 0 means none.
type handover struct {
	Upgrades   int
	Lock       int
	Listener   int
	Containers []containerHandover
	Execs      []execHandover
	Attaches   []attachHandover
}

type containerHandover struct {
	Record  record
	Pidfd   int
	Stdin   int
	Outputs []outputHandover
}

type outputHandover struct {
	Name string
	File int
	Rest []byte // a line begun and not yet logged
}

type execHandover struct {
	Container        string
	Pid, Pidfd, Conn int
}

type attachHandover struct {
	Container string
	Conn      int
	Stdin     bool
	Sinks     map[string]int // by the output's name
}

// serveUpgrade executes the program in files[0] in this one's place: same process, same children, same descriptors. On an error this
// program carries on where it was.
func (s *Server) serveUpgrade(conn *net.UnixConn, files []*os.File) {
	if len(files) != 1 {
		s.fail(conn, coded(protocol.Invalid, "upgrade: want one program, got %d", len(files)))
		return
	}
	s.forking.Lock()
	defer s.forking.Unlock()
	s.settling.Lock()
	defer s.settling.Unlock()
	err := s.replaceProgram(files[0])
	// Still here. The goroutines that were stopped have let go of everything; start them again.
	s.rewatch()
	s.fail(conn, err)
}

func (s *Server) replaceProgram(program *os.File) error {
	k := &keeper{}
	defer k.undo()
	state, err := s.suspend(k)
	if err != nil {
		return err
	}
	body, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode handover: %w", err)
	}
	fd, err := unix.MemfdCreate("handover", 0)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	memory := os.NewFile(uintptr(fd), "handover")
	defer memory.Close()
	if _, err := memory.Write(body); err != nil {
		return fmt.Errorf("write handover: %w", err)
	}
	programFd, err := protocol.Descriptor(program)
	if err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, initProcessors+"=") })
	env = append(env, fmt.Sprintf("%s=%d", HandoverEnv, fd))
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", programFd), os.Args, env)
	return fmt.Errorf("execute newer supervisor: %w", err)
}

// keeper lets descriptors survive an execution, by copies without close-on-exec, and takes that back if it failed.
type keeper struct {
	fds []int
	err error
}

func (k *keeper) keep(f *os.File) int {
	if f == nil || k.err != nil {
		return 0
	}
	fd, err := protocol.Descriptor(f)
	if err != nil {
		k.err = err
		return 0
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 3)
	if err != nil {
		k.err = os.NewSyscallError("fcntl", err)
		return 0
	}
	k.fds = append(k.fds, copied)
	return copied
}

func (k *keeper) keepConn(c interface{ File() (*os.File, error) }) int {
	f, err := c.File()
	if err != nil {
		k.err = err
		return 0
	}
	defer f.Close()
	return k.keep(f)
}

func (k *keeper) undo() {
	for _, fd := range k.fds {
		unix.Close(fd)
	}
}

// suspend stops the goroutines that read containers' output and lists what the next program inherits. A child that ends from now on is
// the next program's to reap. The caller holds forking and settling for writing, so nothing is half done.
func (s *Server) suspend(k *keeper) (*handover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &handover{Upgrades: s.upgrades + 1, Lock: k.keep(s.lock), Listener: k.keepConn(s.listener)}
	past := time.Unix(1, 0)
	for _, c := range s.containers {
		if err := c.pidfd.SetReadDeadline(past); err != nil {
			k.err = fmt.Errorf("suspend container %s: %w", c.id, err)
		}
		if !c.ending {
			c.ending = !<-c.turn
		}
		for _, o := range c.outputs {
			o.stop()
		}
		c.pumps.Wait()
		c.mu.Lock()
		ch := containerHandover{Record: c.rec, Pidfd: k.keep(c.pidfd)}
		if !c.tty {
			ch.Stdin = k.keep(c.stdin)
		}
		for _, o := range c.outputs {
			ch.Outputs = append(ch.Outputs, outputHandover{Name: o.name, File: k.keep(o.file), Rest: o.line.rest})
		}
		c.mu.Unlock()
		h.Containers = append(h.Containers, ch)
	}
	for e := range s.execs {
		h.Execs = append(h.Execs, execHandover{Container: e.container, Pid: e.pid, Pidfd: k.keep(e.pidfd), Conn: k.keepConn(e.conn)})
	}
	for a := range s.attaches {
		ah := attachHandover{Container: a.container.id, Conn: k.keepConn(a.conn), Stdin: a.stdin, Sinks: map[string]int{}}
		for _, sink := range a.sinks {
			if sink.output.holds(sink.file) {
				ah.Sinks[sink.output.name] = k.keep(sink.file)
			}
		}
		h.Attaches = append(h.Attaches, ah)
	}
	return h, k.err
}

// rewatch undoes suspend.
func (s *Server) rewatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if err := c.pidfd.SetReadDeadline(time.Time{}); err != nil {
			s.cfg.Logf("resume container %s: %v", c.id, err)
		}
		for _, o := range c.outputs {
			if err := o.file.SetReadDeadline(time.Time{}); err != nil {
				s.cfg.Logf("resume output of container %s: %v", c.id, err)
			}
		}
		if c.ending {
			c.copyOutputs() // its goroutine goes on with the end as soon as the lock is free
			continue
		}
		s.watch(c)
	}
}

// resume carries on from an upgrade.
func (s *Server) resume(file *os.File) error {
	defer file.Close()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read handover: %w", err)
	}
	var h handover
	if err := json.NewDecoder(file).Decode(&h); err != nil {
		return fmt.Errorf("read handover: %w", err)
	}
	// Sessions taken over may end at once, and then change the lists.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upgrades = h.Upgrades
	s.lock = inherit(h.Lock, "lock")
	// One from before there were shared locks has it exclusively.
	if err := flock(s.lock, unix.LOCK_SH); err != nil {
		return err
	}
	listener, err := net.FileListener(inherit(h.Listener, "listener"))
	if err != nil {
		return fmt.Errorf("take over listener: %w", err)
	}
	unixListener, ok := listener.(*net.UnixListener)
	if !ok {
		return errors.New("take over listener: not a unix socket")
	}
	unixListener.SetUnlinkOnClose(false)
	s.listener = unixListener
	for i := range h.Containers {
		if err := s.resumeContainer(&h.Containers[i]); err != nil {
			return err
		}
	}
	for _, e := range h.Execs {
		conn, err := inheritConn(e.Conn)
		if err != nil {
			return err
		}
		session := &execSession{container: e.Container, conn: conn, pid: e.Pid, pidfd: inherit(e.Pidfd, "pidfd")}
		s.execs[session] = struct{}{}
		go func() {
			defer conn.Close()
			s.awaitExec(session)
		}()
	}
	for _, a := range h.Attaches {
		if err := s.resumeAttach(&a); err != nil {
			return err
		}
	}
	for _, c := range s.containers {
		s.watch(c)
	}
	return nil
}

func (s *Server) resumeContainer(h *containerHandover) error {
	lib, err := libcontainer.Load(s.libDir, h.Record.ID)
	if err != nil {
		return fmt.Errorf("take over container %s: %w", h.Record.ID, err)
	}
	c := &container{
		id: h.Record.ID, rec: h.Record, lib: lib, private: h.Record.PrivatePID, tty: h.Record.TTY,
		pidfd: inherit(h.Pidfd, "pidfd"), stdin: inherit(h.Stdin, "stdin"),
		done: make(chan struct{}), abandoned: make(chan struct{}),
	}
	if c.log, err = openLogFile(h.Record.LogDir, h.Record.LogName, s.cfg.Logf); err != nil {
		// The container is worth more than its log.
		s.cfg.Logf("take over log of container %s: %v", c.id, err)
		c.log = &logFile{logf: s.cfg.Logf}
	}
	for _, oh := range h.Outputs {
		o := newOutput(oh.Name, inherit(oh.File, oh.Name), c.log)
		o.line.rest = oh.Rest
		c.outputs = append(c.outputs, o)
		if c.tty {
			c.terminal = o.file
			if c.rec.Stdin {
				c.stdin = o.file
			}
		}
	}
	s.containers[c.id] = c
	return nil
}

func (s *Server) resumeAttach(h *attachHandover) error {
	conn, err := inheritConn(h.Conn)
	if err != nil {
		return err
	}
	c := s.containers[h.Container]
	if c == nil {
		return conn.Close()
	}
	a := &attachment{container: c, conn: conn, stdin: h.Stdin}
	for _, o := range c.outputs {
		if fd := h.Sinks[o.name]; fd != 0 {
			file := inherit(fd, "sink")
			o.attach(file)
			a.sinks = append(a.sinks, attachedSink{output: o, file: file})
		}
	}
	s.attaches[a] = struct{}{}
	go func() {
		defer conn.Close()
		s.awaitAttach(a)
	}()
	return nil
}

func inherit(fd int, name string) *os.File {
	if fd == 0 {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

func inheritConn(fd int) (*net.UnixConn, error) {
	f := inherit(fd, "connection")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("take over connection: not a unix socket")
	}
	return unixConn, nil
}

// executableDigest is the SHA-256 of the running program, in hex.
func executableDigest() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("open own program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read own program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
