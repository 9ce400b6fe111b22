package cri

import (
	"context"
	"io"
	"os"
	"sync"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// Attach connects a client to a container's own streams until the container ends or the client goes.
func (r streamer) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := r.s.running(id)
	if err != nil {
		return err
	}
	tty := c.get().Config.Message.Tty
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := r.s.cfg.Supervisor.Attach(ctx, id, protocol.AttachRequest{
		Stdin: in != nil || tty, Stdout: out != nil, Stderr: errOut != nil,
	}, tty)
	if err != nil {
		return err
	}
	defer a.Close()
	followSize(ctx, &a.Streams, resize)
	if in != nil {
		go func() {
			to := a.In
			if tty {
				to = a.Terminal
			}
			if to != nil {
				_, _ = io.Copy(to, in) // ends when the client's stream or the container does
			}
			// The supervisor closes the container's input if it is to be closed after its first client.
			_ = a.CloseStdin()
		}()
	}
	var copies sync.WaitGroup
	for _, s := range []struct {
		to   io.Writer
		from *os.File
	}{{out, a.Out}, {errOut, a.Err}} {
		if s.from != nil {
			copies.Go(func() {
				if _, err := io.Copy(s.to, s.from); err != nil {
					cancel() // the client is gone; to read on would only hide that
				}
			})
		}
	}
	a.Wait()
	copies.Wait()
	return nil
}
