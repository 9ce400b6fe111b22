package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/peapod/peapod/runtime/oci"
	"github.com/peapod/peapod/runtime/supervisor"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// maxSyncOutput bounds each stream that ExecSync collects, in bytes; more is read and dropped.
const maxSyncOutput = 16 << 20

// syncDrain is how long ExecSync waits for the end of the output after the command ended: a process that it left in the background may
// hold the pipes.
const syncDrain = time.Second

// ErrTimedOut is the error of a command that ExecSync ended for taking too long.
var ErrTimedOut = errors.New("command timed out")

// ExecSync runs a command in a container and returns what it wrote. A code other than 0 is a utilexec.CodeExitError; running out of time is
// ErrTimedOut.
func (s *Service) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	process, err := s.execProcess(id, cmd, false)
	if err != nil {
		return nil, nil, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		cause := fmt.Errorf("%w: %q timed out after %s", ErrTimedOut, strings.Join(cmd, " "), timeout)
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, cause)
		defer cancel()
	}
	run, err := s.cfg.Supervisor.Exec(ctx, id, process, supervisor.ExecOptions{Stdout: true, Stderr: true})
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, fmt.Errorf("failed to exec in container: %w", err)
	}
	defer run.Close()
	var out, errOut bytes.Buffer
	var readers sync.WaitGroup
	readers.Go(func() { collect(&out, run.Out) })
	readers.Go(func() { collect(&errOut, run.Err) })
	exit, err := run.Wait()
	if err != nil {
		run.Streams.Close()
		readers.Wait()
		return nil, nil, err
	}
	deadline := time.Now().Add(syncDrain)
	for _, f := range []*os.File{run.Out, run.Err} {
		if err := f.SetReadDeadline(deadline); err != nil {
			f.Close()
		}
	}
	readers.Wait()
	stdout, stderr = out.Bytes(), errOut.Bytes()
	if exit.Code != 0 {
		err = utilexec.CodeExitError{
			Err:  fmt.Errorf("command '%s' exited with %d: %s", strings.Join(cmd, " "), exit.Code, stderr),
			Code: exit.Code,
		}
	}
	return stdout, stderr, err
}

// collect reads to the end or the deadline, whichever comes first, keeping as much as is allowed.
func collect(into *bytes.Buffer, from io.Reader) {
	if _, err := io.CopyN(into, from, maxSyncOutput); err == nil {
		// The reader must not be left blocking the command. Why reading ends does not matter.
		_, _ = io.Copy(io.Discard, from)
	}
}

// execProcess is a process in the manner of the container's own.
func (s *Service) execProcess(id string, cmd []string, tty bool) (*specs.Process, error) {
	if _, err := s.running(id); err != nil {
		return nil, err
	}
	body, err := os.ReadFile(s.specPath(id))
	if err != nil {
		return nil, fmt.Errorf("read container specification: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(body, &spec); err != nil {
		return nil, fmt.Errorf("decode container specification: %w", err)
	}
	return oci.ExecProcess(spec.Process, cmd, tty)
}

// streamer is what the streaming server calls for the URLs that Exec, Attach and PortForward gave out.
type streamer struct{ s *Service }

// Exec runs a command with its streams connected. It returns when the command ended and its output is through.
func (r streamer) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	process, err := r.s.execProcess(id, cmd, tty)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run, err := r.s.cfg.Supervisor.Exec(ctx, id, process, supervisor.ExecOptions{
		Stdin: in != nil, Stdout: out != nil, Stderr: errOut != nil, TTY: tty,
	})
	if err != nil {
		return fmt.Errorf("failed to exec in container: %w", err)
	}
	defer run.Close()
	var copies sync.WaitGroup
	if tty {
		followSize(ctx, &run.Streams, resize)
		if in != nil {
			go func() { _, _ = io.Copy(run.Terminal, in) }() // ends when the client's stream does, after this returns
		}
		copies.Go(func() { copyTerminal(out, run.Terminal) })
	} else {
		if in != nil {
			go func() {
				_, _ = io.Copy(run.In, in) // the command may end without reading all
				run.In.Close()
			}()
		}
		for _, c := range []struct {
			to   io.Writer
			from *os.File
		}{{out, run.Out}, {errOut, run.Err}} {
			if c.from != nil {
				copies.Go(func() { drainTo(c.to, c.from) })
			}
		}
	}
	exit, err := run.Wait()
	if err != nil {
		return err
	}
	if tty {
		// Processes left on the terminal got their hang-up with the session leader's end; do not wait for those that ignore it.
		if err := run.Terminal.SetReadDeadline(time.Now().Add(syncDrain)); err != nil {
			run.Terminal.Close()
		}
	}
	copies.Wait()
	return exitError(cmd, exit)
}

func exitError(cmd []string, exit *protocol.ExitState) error {
	if exit.Code == 0 {
		return nil
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("error executing command %v, exit code %d", cmd, exit.Code), Code: exit.Code}
}

// drainTo copies to the end. If the client is gone it reads on, so that the command is not stopped by a full pipe.
func drainTo(to io.Writer, from io.Reader) {
	if _, err := io.Copy(to, from); err != nil {
		_, _ = io.Copy(io.Discard, from)
	}
}

// copyTerminal copies a terminal's output; the master's end is an error (EIO) once the last process closed it.
func copyTerminal(to io.Writer, from io.Reader) {
	if to == nil {
		to = io.Discard
	}
	drainTo(to, from)
}

// followSize applies the client's window sizes until ctx ends.
func followSize(ctx context.Context, streams *supervisor.Streams, resize <-chan remotecommand.TerminalSize) {
	if resize == nil || streams.Terminal == nil {
		return
	}
	go func() {
		for {
			select {
			case size, ok := <-resize:
				if !ok {
					return
				}
				if size.Width > 0 && size.Height > 0 {
					// It fails once the terminal is gone, and then the session is ending.
					_ = streams.Resize(size.Width, size.Height)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}
