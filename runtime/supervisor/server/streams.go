//go:build cgo

package server

import (
	"fmt"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// childStdio is what a new process gets as its standard streams, closed here once it has them.
type childStdio struct {
	files   []*os.File
	console *os.File // our end of the socket that the pty's master comes through
}

func (s *childStdio) close() {
	protocol.CloseAll(s.files)
	s.files = nil
}

// release closes what is still open, whether or not the process started.
func (s *childStdio) release() {
	s.close()
	if s.console != nil {
		s.console.Close() // a second time is no harm
	}
}

// openStreams makes the first process's standard streams: pipes to the log, or a terminal.
func (c *container) openStreams(p *libcontainer.Process, req *protocol.StartRequest, config *configs.Config) (_ *childStdio, err error) {
	if req.TTY {
		return openConsole(p)
	}
	stdio := &childStdio{}
	defer func() {
		if err != nil {
			stdio.close()
		}
	}()
	pipe := func(parentReads bool) (parent, child *os.File, err error) {
		parent, child, err = newPipe(parentReads)
		if err != nil {
			return nil, nil, err
		}
		stdio.files = append(stdio.files, child)
		if err := giveToRoot(config, child); err != nil {
			parent.Close()
			return nil, nil, err
		}
		return parent, child, nil
	}
	for _, name := range []string{"stdout", "stderr"} {
		parent, child, err := pipe(true)
		if err != nil {
			return nil, err
		}
		c.outputs = append(c.outputs, newOutput(name, parent, c.log))
		if name == "stdout" {
			p.Stdout = child
		} else {
			p.Stderr = child
		}
	}
	if req.Stdin {
		parent, child, err := pipe(false)
		if err != nil {
			return nil, err
		}
		c.stdin, p.Stdin = parent, child
	}
	return stdio, nil
}

// own gives a process's streams to the container's root.
func (c *container) own(files []*os.File) error {
	config := c.lib.Config()
	return giveToRoot(&config, files...)
}

// giveToRoot gives streams to the root of the container's user namespace, if it has one of its own: a process must be able to
// reopen /dev/stdout, and to give it to its user.
func giveToRoot(config *configs.Config, files ...*os.File) error {
	uid, err := config.HostRootUID()
	if err != nil {
		return fmt.Errorf("map the container's root: %w", err)
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return fmt.Errorf("map the container's root group: %w", err)
	}
	if uid == 0 && gid == 0 {
		return nil
	}
	for _, f := range files {
		if err := f.Chown(uid, gid); err != nil {
			return fmt.Errorf("give stream to the container's root: %w", err)
		}
	}
	return nil
}

// newPipe makes a pipe whose parent end does not block and whose child end does.
func newPipe(parentReads bool) (parent, child *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	ours, theirs := fds[0], fds[1]
	if !parentReads {
		ours, theirs = theirs, ours
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		unix.Close(theirs)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ours), "pipe"), os.NewFile(uintptr(theirs), "pipe"), nil
}

// openConsole prepares p to make a pty in the container and to send its master here.
func openConsole(p *libcontainer.Process) (*childStdio, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	child := os.NewFile(uintptr(fds[1]), "console")
	p.ConsoleSocket = child
	return &childStdio{files: []*os.File{child}, console: os.NewFile(uintptr(fds[0]), "console")}, nil
}

// receiveMaster returns the pty's master, non-blocking. The process has sent it before its start returns.
func (s *childStdio) receiveMaster() (*os.File, error) {
	defer s.console.Close()
	name, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	var oobn int
	for {
		var err error
		_, oobn, _, _, err = unix.Recvmsg(int(s.console.Fd()), name, rights, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, os.NewSyscallError("recvmsg", err)
		}
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: got %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: got %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "ptmx"), nil
}
