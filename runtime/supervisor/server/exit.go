//go:build cgo

package server

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// drainTimeout bounds the wait for the end of a container's output after its last process is gone: a process that escaped the
// container's cgroup could hold the pipe open for ever.
const drainTimeout = 10 * time.Second

// watch starts the goroutines that copy the container's output and wait for its end.
func (s *Server) watch(c *container) {
	c.mu.Lock()
	c.rec.watched = true
	c.mu.Unlock()
	c.copyOutputs()
	c.turn = make(chan bool, 1)
	go s.await(c)
}

func (c *container) copyOutputs() {
	for _, o := range c.outputs {
		c.pumps.Add(1)
		go func() {
			defer c.pumps.Done()
			o.pump()
		}()
	}
}

// await waits for the container's end. Order matters: the OOM count is read before the cgroup goes, the output is complete before the
// exit is recorded, and the exit is on disk before anyone hears of it.
func (s *Server) await(c *container) {
	err := awaitPidfd(c.pidfd)
	parked := errors.Is(err, os.ErrDeadlineExceeded)
	c.turn <- parked
	if parked {
		return // an upgrade is under way, see upgrade.go
	}
	s.settling.RLock()
	defer s.settling.RUnlock()
	status, err := reapPidfd(c.pidfd)
	exit := &protocol.ExitState{FinishedAt: time.Now()}
	if err != nil {
		s.cfg.Logf("wait for container %s: %v", c.id, err)
		exit.Unknown, exit.Code = true, unknownExitCode
	} else {
		exit.Code, exit.Signal = status.exitCode(), status.signal()
	}
	s.idle.begin()
	defer s.idle.end()
	if !c.private {
		if err := c.kill(); err != nil {
			s.cfg.Logf("kill the rest of container %s: %v", c.id, err)
		}
	}
	if kills := oomKills(c.lib); kills > 0 && exit.Code != 0 {
		exit.OOM = true
	}
	c.drain(s)
	if err := c.lib.Destroy(); err != nil {
		s.cfg.Logf("clear container %s: %v", c.id, err)
	}
	c.closeStreams()
	s.finish(c, exit)
}

// drain waits until all output is copied.
func (c *container) drain(s *Server) {
	copied := make(chan struct{})
	go func() {
		c.pumps.Wait()
		close(copied)
	}()
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	select {
	case <-copied:
	case <-timeout.C:
		s.cfg.Logf("container %s ended, but its output is held open; giving up on it", c.id)
		for _, o := range c.outputs {
			o.stop()
		}
		<-copied
	}
}

func (c *container) closeStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pidfd.Close()
	for _, o := range c.outputs {
		o.close()
	}
	if c.stdin != nil && c.stdin != c.terminal {
		c.stdin.Close()
	}
	c.stdin, c.terminal = nil, nil
	c.log.close()
}

// finish records the exit, then tells the subscribers.
func (s *Server) finish(c *container, exit *protocol.ExitState) {
	c.mu.Lock()
	c.rec.Exit = exit
	rec := c.rec
	c.mu.Unlock()
	if err := s.writeRecord(&rec, true); err != nil {
		s.cfg.Logf("record end of container %s: %v", c.id, err)
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	state := rec.state()
	for sub := range s.subscribers {
		sub.offer(state)
	}
	s.mu.Unlock()
	close(c.done)
}

// waitStatus is how a process ended, as waitid tells it.
type waitStatus struct{ code, status int }

// CLD_EXITED of siginfo: the status is an exit code, else it is a signal.
const cldExited = 1

func (w waitStatus) exitCode() int {
	if w.code == cldExited {
		return w.status
	}
	return 128 + w.status
}

func (w waitStatus) signal() int {
	if w.code == cldExited {
		return 0
	}
	return w.status
}

func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// awaitPidfd waits until a child ended, without holding a thread meanwhile and without reaping it.
func awaitPidfd(pidfd *os.File) error {
	rc, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		info, err := waitid(fd, unix.WNOWAIT)
		return err != nil || info.Signo != 0 // an error is reapPidfd's to report
	})
}

// reapPidfd reaps a child that ended.
func reapPidfd(pidfd *os.File) (waitStatus, error) {
	rc, err := pidfd.SyscallConn()
	if err != nil {
		return waitStatus{}, err
	}
	var info unix.Siginfo
	var waitErr error
	if err := rc.Control(func(fd uintptr) { info, waitErr = waitid(fd, 0) }); err != nil {
		return waitStatus{}, err
	}
	if waitErr != nil {
		return waitStatus{}, os.NewSyscallError("waitid", waitErr)
	}
	if info.Signo == 0 {
		return waitStatus{}, errors.New("waitid: the process runs")
	}
	return siginfoStatus(&info), nil
}

// waitid asks for a child's end; Signo is 0 while it runs.
func waitid(pidfd uintptr, flags int) (unix.Siginfo, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PIDFD, int(pidfd), &info, unix.WEXITED|unix.WNOHANG|flags, nil)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN: // a pidfd that does not block says so instead of 0
			return unix.Siginfo{}, nil
		}
		return info, err
	}
}

func signalPidfd(pidfd *os.File, sig unix.Signal) error {
	fd, err := protocol.Descriptor(pidfd)
	if err != nil {
		return err
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}
