package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ServerName is what every server's certificate names, so that a client that knows the cluster's authority takes any of them
// for what it is.
const ServerName = "kubernetes.default.svc"

// Times of connections. A cut cable is not told of: the kernel sends again after times that double, for a quarter of an hour, and one that
// has nothing to send waits for ever.
const (
	// dialEach bounds how long one server is tried while there are others; in it the kernel asks at 0 and 1 s.
	dialEach = 3 * time.Second
	// unheard is for how long what was sent, or silence that is asked about, may go without an answer before the connection is given up.
	unheard = 10 * time.Second
	// quiet is after how much silence a connection is asked about, and askAgain how often.
	quiet, askAgain = 10 * time.Second, 5 * time.Second
)

// Servers are the addresses at which the cluster's API may be reached.
type Servers struct {
	// first is the one that the agent was told of.
	first string

	mu sync.Mutex
	// list begins with the server that was reached last.
	list []string
	// searching says that Run does so when it hears from lost, back is closed when the servers are found that are away; nil while they
	// are not.
	searching bool
	back      chan struct{}
	lost      chan struct{}
}

// NewServers returns those of an agent: the one that it was told of, and those that it knows from before.
func NewServers(first string, known []string) *Servers {
	s := &Servers{first: first, list: []string{first}, lost: make(chan struct{}, 1)}
	s.add(known)
	return s
}

func (s *Servers) add(more []string) {
	for _, a := range more {
		if !slices.Contains(s.list, a) {
			s.list = append(s.list, a)
		}
	}
}

// Set says which servers there are now. The one that the agent was told of stays among them: an address that leads to all of
// them, as a load balancer's does, is no server's.
func (s *Servers) Set(now []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(a string) bool { return a != s.first && !slices.Contains(now, a) })
	s.add(now)
}

// Dial connects where the server is asked for that the agent was told of: to the one of the last time if it answers, else to
// the next that does. Other addresses, such as a proxy's, are what they are.
func (s *Servers) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address != s.first {
		return dialOne(ctx, network, address)
	}
	conn, err := s.dialAny(ctx)
	if err != nil && ctx.Err() == nil {
		s.missed()
	}
	return conn, err
}

// dialAny connects to the first server that answers.
func (s *Servers) dialAny(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	list := slices.Clone(s.list)
	s.mu.Unlock()
	var errs []error
	for _, a := range list {
		conn, err := dialOne(ctx, "tcp", a)
		if err != nil {
			errs = append(errs, fmt.Errorf("server %s: %w", a, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		s.reached(a)
		return conn, nil
	}
	return nil, errors.Join(errs...)
}

func dialOne(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{
		Timeout:         dialEach,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: quiet, Interval: askAgain, Count: int(unheard / askAgain)},
		Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			if err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unheard.Milliseconds()))
			}); err != nil {
				return err
			}
			return set
		},
	}
	return d.DialContext(ctx, network, address)
}

// reached puts a server first.
func (s *Servers) reached(a string) {
	s.mu.Lock()
	if i := slices.Index(s.list, a); i > 0 {
		s.list = append([]string{a}, slices.Delete(s.list, i, i+1)...)
	}
	s.mu.Unlock()
	s.found()
}
