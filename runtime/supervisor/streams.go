package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// Streams are this side's ends of a process's standard streams: In to write, Out and Err to read. Those not asked for are nil. With a
// terminal, Terminal is the pty's master, and the others are nil.
type Streams struct {
	In, Out, Err *os.File
	Terminal     *os.File
}

// Close closes all that is open.
func (s *Streams) Close() {
	protocol.CloseAll([]*os.File{s.In, s.Out, s.Err, s.Terminal})
}

// Resize sets the size of the terminal, in characters.
func (s *Streams) Resize(width, height uint16) error {
	rc, err := s.Terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var ioctlErr error
	if err := rc.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	}); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	if ioctlErr != nil {
		return fmt.Errorf("resize terminal: %w", ioctlErr)
	}
	return nil
}

// Execution is a process that runs in a container. Closing it, or the end of the context it was started with, kills the process.
type Execution struct {
	Streams
	Pid int

	session *session
	ctx     context.Context
}

// ExecOptions say which streams a process gets.
type ExecOptions struct {
	Stdin, Stdout, Stderr, TTY bool
}

// Exec runs a process in a container.
func (c *Client) Exec(ctx context.Context, id string, process *specs.Process, opts ExecOptions) (_ *Execution, err error) {
	body, err := json.Marshal(process)
	if err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	req := &protocol.ExecRequest{Process: body, TTY: opts.TTY}
	e := &Execution{ctx: ctx}
	var theirs []*os.File
	defer func() {
		protocol.CloseAll(theirs)
		if err != nil {
			e.Streams.Close()
		}
	}()
	if !opts.TTY {
		req.Stdin, req.Stdout, req.Stderr = opts.Stdin, opts.Stdout, opts.Stderr
		for _, p := range []struct {
			want  bool
			ours  **os.File
			reads bool
		}{{opts.Stdin, &e.In, false}, {opts.Stdout, &e.Out, true}, {opts.Stderr, &e.Err, true}} {
			if !p.want {
				continue
			}
			ours, their, err := newPipe(p.reads, false)
			if err != nil {
				return nil, err
			}
			*p.ours = ours
			theirs = append(theirs, their)
		}
	}
	s, err := c.open(ctx, &protocol.Request{Op: protocol.Exec, ID: id, Exec: req}, theirs...)
	if err != nil {
		return nil, err
	}
	resp, files, err := s.receive()
	if err != nil {
		s.close()
		return nil, err
	}
	if opts.TTY {
		if len(files) != 1 {
			protocol.CloseAll(files)
			s.close()
			return nil, errors.New("exec: the supervisor sent no terminal")
		}
		e.Terminal = files[0]
	}
	e.Pid, e.session = resp.Container.Pid, s
	return e, nil
}

// Wait waits for the end of the process.
func (e *Execution) Wait() (*protocol.ExitState, error) {
	resp, _, err := e.session.receive()
	if err != nil {
		if e.ctx.Err() != nil {
			return nil, context.Cause(e.ctx)
		}
		return nil, err
	}
	return resp.Exit, nil
}

// Close ends the execution and closes its streams.
func (e *Execution) Close() {
	e.session.close()
	e.Streams.Close()
}

// Attachment is a connection to a container's own streams. Out and Err end with the container, or when the reader takes nothing for a
// second while the container writes. Terminal and In belong to the container: closing them here leaves it as it is.
type Attachment struct {
	Streams
	session *session
}

// Attach connects to a running container's streams. tty must say whether the container has a terminal: then output comes on Out, and
// Terminal is set if stdin is asked for.
func (c *Client) Attach(ctx context.Context, id string, req protocol.AttachRequest, tty bool) (_ *Attachment, err error) {
	a := &Attachment{}
	var theirs []*os.File
	defer func() {
		protocol.CloseAll(theirs)
		if err != nil {
			a.Streams.Close()
		}
	}()
	if tty {
		req.Stderr = false
	}
	for _, p := range []struct {
		want bool
		ours **os.File
	}{{req.Stdout, &a.Out}, {req.Stderr, &a.Err}} {
		if !p.want {
			continue
		}
		ours, their, err := newPipe(true, true)
		if err != nil {
			return nil, err
		}
		*p.ours = ours
		theirs = append(theirs, their)
	}
	s, err := c.open(ctx, &protocol.Request{Op: protocol.Attach, ID: id, Attach: &req}, theirs...)
	if err != nil {
		return nil, err
	}
	_, files, err := s.receive()
	if err != nil {
		s.close()
		return nil, err
	}
	if len(files) > 0 {
		if tty {
			a.Terminal = files[0]
		} else {
			a.In = files[0]
		}
		protocol.CloseAll(files[1:])
	}
	a.session = s
	return a, nil
}

// CloseStdin says that this side's input has ended. The container's ends with it if it asks for that (stdin once).
func (a *Attachment) CloseStdin() error {
	if a.In != nil {
		a.In.Close()
	}
	return protocol.Send(a.session.conn, &protocol.Request{Version: protocol.Version, Op: protocol.CloseStdin})
}

// Wait returns when the container ended or the connection is lost.
func (a *Attachment) Wait() {
	// Nothing more is ever sent on it: whatever receive returns is the end.
	_, files, _ := a.session.receive()
	protocol.CloseAll(files)
}

// Close detaches.
func (a *Attachment) Close() {
	a.session.close()
	a.Streams.Close()
}

// newPipe makes a pipe whose end on this side does not block. The other side's blocks, as programs expect of their standard streams,
// unless theirsToo.
func newPipe(oursReads, theirsToo bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	our, their := fds[0], fds[1]
	if !oursReads {
		our, their = their, our
	}
	err = unix.SetNonblock(our, true)
	if err == nil && theirsToo {
		err = unix.SetNonblock(their, true)
	}
	if err != nil {
		unix.Close(our)
		unix.Close(their)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(our), "pipe"), os.NewFile(uintptr(their), "pipe"), nil
}
