package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// ServerName is what every server's certificate names, so that a client that knows the cluster's authority takes any of them
// for what it is.
const ServerName = "kubernetes.default.svc"

// dialEach bounds how long one server is tried while there are others.
const dialEach = 3 * time.Second

// Servers are the addresses at which the cluster's API may be reached.
type Servers struct {
	// first is the one that the agent was told of.
	first string

	mu sync.Mutex
	// list begins with the server that was reached last.
	list []string
}

// NewServers returns those of an agent: the one that it was told of, and those that it knows from before.
func NewServers(first string, known []string) *Servers {
	s := &Servers{first: first, list: []string{first}}
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
	s.mu.Lock()
	list := slices.Clone(s.list)
	s.mu.Unlock()
	var errs []error
	for _, a := range list {
		conn, err := dialOne(ctx, network, a)
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
	d := &net.Dialer{Timeout: dialEach, KeepAlive: 30 * time.Second}
	return d.DialContext(ctx, network, address)
}

// reached puts a server first.
func (s *Servers) reached(a string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.list, a); i > 0 {
		s.list = append([]string{a}, slices.Delete(s.list, i, i+1)...)
	}
}
