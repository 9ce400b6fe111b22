//go:build cgo

package server

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// execSession is a process run in a container for a client, and the connection that waits for its end.
type execSession struct {
	container string
	conn      *net.UnixConn
	pidfd     *os.File
	pid       int
}

func (s *Server) serveExec(conn *net.UnixConn, req *protocol.Request, files []*os.File) {
	session, master, err := s.startExec(conn, req, files)
	if err != nil {
		s.fail(conn, err)
		return
	}
	resp := &protocol.Response{Container: &protocol.ContainerState{ID: req.ID, Pid: session.pid, StartedAt: time.Now()}}
	if master == nil {
		protocol.CloseAll(files) // the process has its own; a pipe kept here would never end
		s.reply(conn, resp)
	} else {
		s.reply(conn, resp, master)
		master.Close()
	}
	s.awaitExec(session)
}

// startExec starts and registers the process, so that an upgrade sees either nothing of it or all.
func (s *Server) startExec(conn *net.UnixConn, req *protocol.Request, files []*os.File) (_ *execSession, master *os.File, err error) {
	s.forking.RLock()
	defer s.forking.RUnlock()
	c, err := s.running(req.ID)
	if err != nil {
		return nil, nil, err
	}
	if req.Exec == nil {
		return nil, nil, coded(protocol.Invalid, "exec: no process given")
	}
	var spec specs.Process
	if err := json.Unmarshal(req.Exec.Process, &spec); err != nil {
		return nil, nil, coded(protocol.Invalid, "decode process: %v", err)
	}
	process, err := newProcess(&spec)
	if err != nil {
		return nil, nil, coded(protocol.Invalid, "exec: %v", err)
	}
	stdio := &childStdio{}
	if req.Exec.TTY {
		if stdio, err = openConsole(process); err != nil {
			return nil, nil, err
		}
		defer stdio.release()
	} else {
		if err := assignStreams(process, req.Exec, files); err != nil {
			return nil, nil, err
		}
		if err := c.own(files); err != nil {
			return nil, nil, err
		}
	}
	if err := c.lib.Run(process); err != nil {
		if errors.Is(err, libcontainer.ErrNotRunning) {
			return nil, nil, coded(protocol.NotRunning, "container %s does not run", req.ID)
		}
		return nil, nil, err
	}
	stdio.close()
	pid, err := process.Pid()
	if err != nil {
		return nil, nil, err
	}
	pidfd, err := openPidfd(pid)
	if err != nil {
		return nil, nil, err
	}
	if req.Exec.TTY {
		if master, err = stdio.receiveMaster(); err != nil {
			s.discard(pidfd)
			return nil, nil, err
		}
	}
	session := &execSession{container: req.ID, conn: conn, pidfd: pidfd, pid: pid}
	s.mu.Lock()
	s.execs[session] = struct{}{}
	s.mu.Unlock()
	return session, master, nil
}

// discard kills and reaps a process that nobody will wait for.
func (s *Server) discard(pidfd *os.File) {
	defer pidfd.Close()
	if err := signalPidfd(pidfd, unix.SIGKILL); err != nil {
		s.cfg.Logf("kill process: %v", err)
		return
	}
	if err := awaitPidfd(pidfd); err != nil {
		s.cfg.Logf("await process: %v", err)
	}
	if _, err := reapPidfd(pidfd); err != nil {
		s.cfg.Logf("reap process: %v", err)
	}
}

func assignStreams(p *libcontainer.Process, req *protocol.ExecRequest, files []*os.File) error {
	next := func() (*os.File, error) {
		if len(files) == 0 {
			return nil, coded(protocol.Invalid, "exec: a stream's descriptor is missing")
		}
		f := files[0]
		files = files[1:]
		return f, nil
	}
	if req.Stdin {
		f, err := next()
		if err != nil {
			return err
		}
		p.Stdin = f
	}
	if req.Stdout {
		f, err := next()
		if err != nil {
			return err
		}
		p.Stdout = f
	}
	if req.Stderr {
		f, err := next()
		if err != nil {
			return err
		}
		p.Stderr = f
	}
	return nil
}

// awaitExec waits for the end of the process and tells the client; a client that hangs up first has its process killed.
func (s *Server) awaitExec(e *execSession) {
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		var one [1]byte
		for {
			// Anything but a deadline, which an upgrade or the end below sets, means that the client is gone.
			_, err := e.conn.Read(one[:])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err != nil {
				// ESRCH: it ended at the same moment.
				if err := signalPidfd(e.pidfd, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					s.cfg.Logf("kill process of container %s after its client left: %v", e.container, err)
				}
				return
			}
		}
	}()
	err := awaitPidfd(e.pidfd)
	s.settling.RLock()
	defer s.settling.RUnlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return // an upgrade takes over
	}
	exit := &protocol.ExitState{FinishedAt: time.Now()}
	status, err := reapPidfd(e.pidfd)
	if err != nil {
		s.cfg.Logf("wait for process of container %s: %v", e.container, err)
		exit.Unknown, exit.Code = true, unknownExitCode
	} else {
		exit.Code, exit.Signal = status.exitCode(), status.signal()
	}
	if err := e.conn.SetReadDeadline(time.Unix(1, 0)); err == nil {
		<-hungUp
	}
	s.mu.Lock()
	delete(s.execs, e)
	s.mu.Unlock()
	e.pidfd.Close()
	// The client may have hung up; then there is nobody to tell.
	_ = protocol.Send(e.conn, &protocol.Response{Exit: exit})
}
