package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Port forwards by SPDY are served here and not by the streaming library, for what they do where nobody listens. The
// protocol has an error stream for each connection, but on a word there kubectl gives up the forward with all its
// connections. A data stream that is refused it reports as an error, and goes on. So the port is dialed before the
// stream is accepted.

const (
	// dialLimit bounds how long a stream waits for its connection.
	dialLimit = 10 * time.Second
	// maxWaiting bounds the error streams of one forward that wait for their data streams.
	maxWaiting = 1000
	// addressLife is how long the streaming library keeps an address that nobody uses.
	addressLife = time.Minute
)

// forwardAddresses knows which sandbox the address of a forward was given out for.
type forwardAddresses struct {
	mu    sync.Mutex
	known map[string]forwardAddress
}

type forwardAddress struct {
	sandbox string
	until   time.Time
}

// add notes an address, and forgets those whose time is over.
func (a *forwardAddresses) add(token, sandbox string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for t, known := range a.known {
		if now.After(known.until) {
			delete(a.known, t)
		}
	}
	if a.known == nil {
		a.known = map[string]forwardAddress{}
	}
	a.known[token] = forwardAddress{sandbox, now.Add(addressLife)}
}

// use returns the sandbox of an address, once.
func (a *forwardAddresses) use(token string) (sandbox string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.known[token]
	delete(a.known, token)
	return known.sandbox, ok && time.Now().Before(known.until)
}

// serveStream serves the streams of exec, attach and port-forward.
func (s *Service) serveStream(w http.ResponseWriter, r *http.Request) {
	dir, token := path.Split(r.URL.Path)
	if dir != path.Join(s.cfg.StreamPrefix, "portforward")+"/" {
		s.streaming.ServeHTTP(w, r)
		return
	}
	sandbox, ok := s.forwards.use(token)
	if !ok {
		http.NotFound(w, r)
		return
	}
	if isWebSocket(r) { // of the old protocol, in which ports are in the query and no stream can be refused
		s.streaming.ServeHTTP(w, r)
		return
	}
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return // it has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	f := &forward{s: s, ctx: ctx, sandbox: sandbox, waiting: map[string]httpstream.Stream{}}
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, f.accept)
	if conn == nil {
		cancel()
		return // it has answered
	}
	conn.SetIdleTimeout(streaming.DefaultConfig.StreamIdleTimeout)
	<-conn.CloseChan()
	cancel()
	f.connections.Wait()
	conn.Close()
}

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// forward is one client's forward: many connections, each of two streams.
type forward struct {
	s       *Service
	ctx     context.Context
	sandbox string

	connections sync.WaitGroup

	mu      sync.Mutex
	waiting map[string]httpstream.Stream // error streams, by request
}

// accept takes a new stream in; an error refuses it. The client opens a connection's error stream first.
func (f *forward) accept(stream httpstream.Stream, replySent <-chan struct{}) error {
	header := stream.Headers()
	port, err := strconv.ParseUint(header.Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("bad port %q of a stream", header.Get(portforward.PortHeader))
	}
	switch kind := header.Get(portforward.StreamType); kind {
	case portforward.StreamTypeError:
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.waiting) >= maxWaiting {
			return errors.New("too many error streams without data streams")
		}
		f.waiting[requestOf(stream)] = stream
		return nil
	case portforward.StreamTypeData:
		return f.connect(stream, replySent, int(port))
	default:
		return fmt.Errorf("bad type %q of a stream", kind)
	}
}

// requestOf pairs streams. Clients older than the header open the two one after the other, with odd numbers.
func requestOf(stream httpstream.Stream) string {
	if id := stream.Headers().Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	n := int(stream.Identifier())
	if stream.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		n -= 2
	}
	return strconv.Itoa(n)
}

// connect connects a data stream to its port.
func (f *forward) connect(data httpstream.Stream, replySent <-chan struct{}, port int) error {
	f.mu.Lock()
	id := requestOf(data)
	errs := f.waiting[id]
	delete(f.waiting, id)
	f.mu.Unlock()
	if errs == nil {
		return fmt.Errorf("data stream of request %q has no error stream", id)
	}
	ctx, cancel := context.WithTimeout(f.ctx, dialLimit)
	defer cancel()
	conn, err := f.s.dialSandbox(ctx, f.sandbox, port)
	if errors.Is(err, unix.ECONNREFUSED) {
		errs.Close()
		return err
	}
	f.connections.Go(func() {
		<-replySent
		defer errs.Close()
		defer data.Close()
		if err == nil {
			err = splice(f.ctx, conn, data)
		}
		if err != nil {
			// It fails only if the client is gone, who then needs no telling.
			_, _ = fmt.Fprintf(errs, "error forwarding port %d to pod %s: %v", port, f.sandbox, err)
			_ = data.Reset()
		}
	})
	return nil
}

// dialSandbox connects to a port on the Pod's localhost.
func (s *Service) dialSandbox(ctx context.Context, id string, port int) (*net.TCPConn, error) {
	sb, err := s.sandbox(id)
	if err != nil {
		return nil, fmt.Errorf("failed to find sandbox %q in store: %w", id, err)
	}
	e := sb.get()
	if e.Phase != phaseReady {
		return nil, fmt.Errorf("sandbox container %q is not running", id)
	}
	nsPath := ""
	if !e.hostNetwork() {
		nsPath = s.nsPath(id, "net")
	}
	conn, err := dialLoopback(ctx, nsPath, port)
	if err != nil {
		return nil, fmt.Errorf("failed to execute portforward in network namespace %q: failed to connect to localhost:%d inside namespace %q, %w", nsPath, port, id, err)
	}
	return conn, nil
}
