// Package supervisor is peapod's side of the container supervisor, a process of its own that is the parent of all containers (package
// server; the program is cmd/podinit, which this package embeds). It starts the supervisor where none runs, replaces an older one in
// place, and speaks package protocol with it.
//
// A Client is safe for concurrent use and holds no connection between calls.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// Config says where the supervisor is and what it runs.
type Config struct {
	// StateDir keeps the container records and the supervisor's log, across reboots.
	StateDir string
	// RunDir (made with mode 0700) keeps the socket. Its path must be short: a socket's is limited to 107 bytes.
	RunDir string
	// Cgroup is the cgroup that the supervisor moves itself to, for example "/peapod-1a2b/supervisor". It stays in its starter's if empty.
	Cgroup string
	// Program is the podinit to run; nil means the embedded one.
	Program *Program
}

// Client speaks with the supervisor.
type Client struct {
	cfg Config

	mu sync.Mutex // one start or upgrade at a time
}

// New returns a client. It does nothing yet.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// Errors that callers act on.
var (
	ErrNotFound      = errors.New("container not known to the supervisor")
	ErrNotRunning    = errors.New("container does not run")
	ErrAlreadyExists = errors.New("container exists already")
)

var errorCodes = map[protocol.ErrorCode]error{
	protocol.NotFound: ErrNotFound, protocol.NotRunning: ErrNotRunning, protocol.AlreadyExists: ErrAlreadyExists,
}

// remoteError is a failure that the supervisor reports.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func responseError(r *protocol.Response) error {
	if r.Error == "" {
		return nil
	}
	return &remoteError{text: r.Error, kind: errorCodes[r.Code]}
}

func (c *Client) socket() string { return filepath.Join(c.cfg.RunDir, "supervisor.sock") }

// session is one connection, with its operation sent.
type session struct {
	conn *net.UnixConn
	stop func() bool
}

// open connects and sends req. Until close, the end of ctx breaks the connection.
func (c *Client) open(ctx context.Context, req *protocol.Request, files ...*os.File) (*session, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.socket())
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		// The dialer looks at the clock, and may be ahead of the context's timer: callers look at ctx to know that they gave up.
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to container supervisor: %w", err)
	}
	s := &session{conn: conn.(*net.UnixConn)}
	s.stop = context.AfterFunc(ctx, func() { s.conn.Close() })
	req.Version = protocol.Version
	if err := protocol.Send(s.conn, req, files...); err != nil {
		s.close()
		return nil, fmt.Errorf("ask container supervisor to %s: %w", req.Op, err)
	}
	return s, nil
}

func (s *session) receive() (*protocol.Response, []*os.File, error) {
	var resp protocol.Response
	files, err := protocol.Receive(s.conn, &resp)
	if err != nil {
		return nil, nil, fmt.Errorf("hear from container supervisor: %w", err)
	}
	if err := responseError(&resp); err != nil {
		protocol.CloseAll(files)
		return nil, nil, err
	}
	return &resp, files, nil
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}

// call makes a request with one answer and no descriptors.
func (c *Client) call(ctx context.Context, req *protocol.Request) (*protocol.Response, error) {
	s, err := c.open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer s.close()
	resp, files, err := s.receive()
	protocol.CloseAll(files)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return resp, err
}

// Start creates and starts a container; it returns when the container's program executes. If ctx ends first, the container may have
// started all the same: Delete tells for sure.
func (c *Client) Start(ctx context.Context, id string, start *protocol.StartRequest) (*protocol.ContainerState, error) {
	resp, err := c.call(ctx, &protocol.Request{Op: protocol.Start, ID: id, Start: start})
	if err != nil {
		return nil, err
	}
	return resp.Container, nil
}

// Signal sends a signal to a container's first process; SIGKILL to all its processes.
func (c *Client) Signal(ctx context.Context, id string, sig unix.Signal) error {
	_, err := c.call(ctx, &protocol.Request{Op: protocol.Signal, ID: id, Signal: int(sig)})
	return err
}

// Delete kills a container if it runs, waits for its end, and forgets it. The unknown is no error.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, &protocol.Request{Op: protocol.Delete, ID: id})
	return err
}

// List returns the containers that run and those that ended and are not deleted.
func (c *Client) List(ctx context.Context) ([]protocol.ContainerState, error) {
	resp, err := c.call(ctx, &protocol.Request{Op: protocol.List})
	if err != nil {
		return nil, err
	}
	return resp.Containers, nil
}

// Stats returns the counters of the running containers among ids, of all without ids.
func (c *Client) Stats(ctx context.Context, ids ...string) ([]protocol.ContainerStats, error) {
	resp, err := c.call(ctx, &protocol.Request{Op: protocol.Stats, IDs: ids})
	if err != nil {
		return nil, err
	}
	return resp.Stats, nil
}

// Update changes a container's cgroup limits; those left out keep their value.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	_, err = c.call(ctx, &protocol.Request{Op: protocol.Update, ID: id, Resources: body})
	return err
}

// Pause freezes a container.
func (c *Client) Pause(ctx context.Context, id string) error {
	_, err := c.call(ctx, &protocol.Request{Op: protocol.Pause, ID: id})
	return err
}

// Resume thaws a container.
func (c *Client) Resume(ctx context.Context, id string) error {
	_, err := c.call(ctx, &protocol.Request{Op: protocol.Resume, ID: id})
	return err
}

// ReopenLog makes the supervisor open a container's log file anew. After an error it goes on writing the old one.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := c.call(ctx, &protocol.Request{Op: protocol.ReopenLog, ID: id})
	return err
}

// Hello asks who supervises.
func (c *Client) Hello(ctx context.Context) (*protocol.HelloInfo, error) {
	resp, err := c.call(ctx, &protocol.Request{Op: protocol.Hello})
	if err != nil {
		return nil, err
	}
	return resp.Hello, nil
}

// Shutdown kills every container and ends the supervisor; it returns when the process is gone. No supervisor is no error.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	hello, err := c.Hello(ctx)
	if notListening(err) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(hello.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("end container supervisor: %w", os.NewSyscallError("pidfd_open", err))
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	if _, err := c.call(ctx, &protocol.Request{Op: protocol.Shutdown}); err != nil {
		return fmt.Errorf("end container supervisor: %w", err)
	}
	defer context.AfterFunc(ctx, func() { process.Close() })()
	return awaitEnd(process)
}

// awaitEnd waits until the process behind a pidfd ended.
func awaitEnd(process *os.File) error {
	rc, err := process.SyscallConn()
	if err != nil {
		return fmt.Errorf("await end of container supervisor: %w", err)
	}
	err = rc.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if err != nil {
		return fmt.Errorf("await end of container supervisor: %w", err)
	}
	return nil
}

// notListening says that nobody is behind the socket.
func notListening(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

// Watch calls state for every container that the supervisor knows, then synced, then state for every exit. It returns when the
// supervisor goes away or ctx ends, with the reason.
func (c *Client) Watch(ctx context.Context, state func(protocol.ContainerState), synced func()) error {
	s, err := c.open(ctx, &protocol.Request{Op: protocol.Subscribe})
	if err != nil {
		return err
	}
	defer s.close()
	for first := true; ; first = false {
		resp, _, err := s.receive()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		for _, st := range resp.Containers {
			state(st)
		}
		if resp.Container != nil {
			state(*resp.Container)
		}
		if first {
			synced()
		}
	}
}

// Run keeps a supervisor alive and reports as Watch does, again from the start whenever the connection was lost (an upgrade, a killed
// supervisor). It returns when ctx ends. Failures to reach or start a supervisor are told to failed, and tried again with growing
// delays up to 5 s.
func (c *Client) Run(ctx context.Context, state func(protocol.ContainerState), synced func(), failed func(error)) {
	delay := time.Duration(0)
	for ctx.Err() == nil {
		err := c.Ensure(ctx)
		if err == nil {
			err = c.Watch(ctx, state, func() { delay = 0; synced() })
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, io.EOF) {
			failed(err)
		}
		delay = min(max(2*delay, 10*time.Millisecond), 5*time.Second)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
