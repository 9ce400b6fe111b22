package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// startTimeout bounds a supervisor's start and upgrade. A start clears what an earlier supervisor left, which may mean killing.
const startTimeout = 60 * time.Second

// maxLog is where the supervisor's log starts over, in bytes.
const maxLog = 1 << 20

// Ensure makes sure that a supervisor of this binary's podinit runs: it starts one where none does and replaces another version in
// place, without touching the containers.
func (c *Client) Ensure(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	program := c.cfg.Program
	if program == nil {
		var err error
		if program, err = Embedded(); err != nil {
			return err
		}
	}
	hello, err := c.Hello(ctx)
	for notListening(err) {
		started, err2 := c.spawn(ctx, program)
		if started || err2 != nil {
			return err2
		}
		// Somebody else's was quicker. It may have ended since.
		hello, err = c.Hello(ctx)
	}
	if err != nil {
		return err
	}
	if hello.Build == program.build {
		return nil
	}
	return c.upgrade(ctx, program, hello)
}

// spawn starts a supervisor, detached from this process, and waits until it listens. It returns false where another one does,
// which was being started when this was called.
func (c *Client) spawn(ctx context.Context, program *Program) (started bool, err error) {
	for _, dir := range []string{c.cfg.StateDir, c.cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, fmt.Errorf("make supervisor directory: %w", err)
		}
	}
	executable, err := program.sealed()
	if err != nil {
		return false, err
	}
	defer executable.Close()
	log, err := openLog(filepath.Join(c.cfg.StateDir, "supervisor.log"))
	if err != nil {
		return false, err
	}
	defer log.Close()
	ready, childReady, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("make pipe: %w", err)
	}
	defer ready.Close()
	defer childReady.Close()
	fd, err := protocol.Descriptor(executable)
	if err != nil {
		return false, err
	}
	cmd := &exec.Cmd{
		// Looked up in this process: among the child's descriptors others have these numbers, such as that of ExtraFiles.
		Path:        fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd),
		Args:        []string{"podinit", "supervise", "--state", c.cfg.StateDir, "--run", c.cfg.RunDir, "--cgroup", c.cfg.Cgroup},
		Env:         []string{"PATH=" + os.Getenv("PATH")},
		Dir:         "/",
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{childReady},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("open supervisor log: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start container supervisor: %w", err)
	}
	childReady.Close()
	// It is this process's child for as long as this process lives. Its end is noticed on the socket; here it is only reaped.
	go func() { _ = cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	said, err := io.ReadAll(ready)
	if err == nil && string(said) == protocol.Ready {
		return true, nil
	}
	if err == nil && string(said) == protocol.Another {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, fmt.Errorf("start container supervisor: %w", context.Cause(ctx))
	}
	return false, fmt.Errorf("start container supervisor: %s", tail(log, before))
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_RDWR | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open supervisor log: %w", err)
	}
	return f, nil
}

// tail is what was logged from offset on, to say why a start failed.
func tail(log *os.File, offset int64) string {
	text, err := io.ReadAll(io.NewSectionReader(log, offset, 4096))
	if err != nil || len(text) == 0 {
		return "it ended without a word"
	}
	return strings.TrimSpace(string(text))
}

// upgrade has a running supervisor execute program in its place.
func (c *Client) upgrade(ctx context.Context, program *Program, old *protocol.HelloInfo) error {
	executable, err := program.sealed()
	if err != nil {
		return err
	}
	defer executable.Close()
	s, err := c.open(ctx, &protocol.Request{Op: protocol.Upgrade}, executable)
	if err != nil {
		return err
	}
	defer s.close()
	if _, _, err := s.receive(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("upgrade container supervisor: %w", err)
	}
	// The listener stayed open: this waits in its queue until the new program accepts.
	hello, err := c.Hello(ctx)
	if err != nil {
		return fmt.Errorf("upgrade container supervisor: %w", err)
	}
	if hello.Build != program.build || hello.Pid != old.Pid {
		return fmt.Errorf("upgrade container supervisor: build %s runs as process %d, want %s as %d",
			hello.Build, hello.Pid, program.build, old.Pid)
	}
	return nil
}
