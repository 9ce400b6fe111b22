//go:build cgo

package server

import (
	"errors"
	"net"
	"os"
	"sync"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// attachment is a client that gets a container's output.
type attachment struct {
	container *container
	conn      *net.UnixConn
	stdin     bool
	sinks     []attachedSink
}

type attachedSink struct {
	output *output
	file   *os.File
}

func (s *Server) serveAttach(conn *net.UnixConn, req *protocol.Request, files []*os.File) {
	a, stdin, err := s.startAttach(conn, req, files)
	if err != nil {
		s.fail(conn, err)
		return
	}
	ok := false
	if stdin != nil {
		ok = s.reply(conn, &protocol.Response{}, stdin)
	} else {
		ok = s.reply(conn, &protocol.Response{})
	}
	if ok {
		s.awaitAttach(a)
	} else {
		s.endAttach(a)
	}
}

// startAttach registers the attachment. The files become the attachment's; files is cleared of them.
func (s *Server) startAttach(conn *net.UnixConn, req *protocol.Request, files []*os.File) (*attachment, *os.File, error) {
	s.forking.RLock()
	defer s.forking.RUnlock()
	c, err := s.running(req.ID)
	if err != nil {
		return nil, nil, err
	}
	want := req.Attach
	if want == nil {
		return nil, nil, coded(protocol.Invalid, "attach: no streams given")
	}
	c.mu.Lock()
	stdin := c.stdin
	if stdin == nil && want.Stdin {
		stdin = c.terminal // to resize it
	}
	c.mu.Unlock()
	if !want.Stdin {
		stdin = nil
	}
	a := &attachment{container: c, conn: conn, stdin: want.Stdin}
	for _, o := range c.outputs {
		if (o.name == "stdout" && !want.Stdout) || (o.name == "stderr" && !want.Stderr) {
			continue
		}
		i := len(a.sinks)
		if i >= len(files) {
			return nil, nil, coded(protocol.Invalid, "attach: a stream's descriptor is missing")
		}
		a.sinks = append(a.sinks, attachedSink{output: o, file: files[i]})
	}
	for i, sink := range a.sinks {
		if sink.output.attach(sink.file) {
			files[i] = nil // now the output's
		}
	}
	s.mu.Lock()
	s.attaches[a] = struct{}{}
	s.mu.Unlock()
	return a, stdin, nil
}

// awaitAttach ends the attachment with the first of: the client hangs up, the container ends.
func (s *Server) awaitAttach(a *attachment) {
	var once sync.Once
	end := func() { once.Do(func() { s.endAttach(a) }) }
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-a.container.done:
			a.conn.Close()
		case <-finished:
		}
	}()
	for {
		var req protocol.Request
		files, err := protocol.Receive(a.conn, &req)
		protocol.CloseAll(files)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return // an upgrade takes over
		}
		if err != nil {
			end()
			return
		}
		if req.Op == protocol.CloseStdin {
			a.closeStdin()
		}
	}
}

// closeStdin ends the container's input after its first client, if the container asks for that. A terminal stays as it is.
func (a *attachment) closeStdin() {
	c := a.container
	if !a.stdin || !c.rec.StdinOnce || c.tty {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin != nil {
		c.stdin.Close()
		c.stdin = nil
	}
}

func (s *Server) endAttach(a *attachment) {
	s.mu.Lock()
	delete(s.attaches, a)
	s.mu.Unlock()
	a.closeStdin()
	for _, sink := range a.sinks {
		sink.output.detach(sink.file)
	}
}
