//go:build cgo

package server

import (
	"net"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// subscriber is a client that is told of exits. A client too slow to take them is cut off; it reads the whole state when it comes again.
type subscriber struct {
	exits chan protocol.ContainerState
	lost  chan struct{}
}

// pendingExits bounds what a subscriber may lag behind.
const pendingExits = 4096

// offer queues an exit. The caller holds Server.mu.
func (s *subscriber) offer(state protocol.ContainerState) {
	select {
	case s.exits <- state:
	default:
		select {
		case <-s.lost:
		default:
			close(s.lost)
		}
	}
}

func (s *Server) serveSubscribe(conn *net.UnixConn) {
	sub := &subscriber{exits: make(chan protocol.ContainerState, pendingExits), lost: make(chan struct{})}
	// In one step: an exit is either in the list or comes after it. An exit that is recorded but not yet told may be in both.
	s.mu.Lock()
	states := s.listLocked()
	s.subscribers[sub] = struct{}{}
	s.mu.Unlock()
	s.idle.end() // a subscriber that waits is no work
	defer func() {
		s.mu.Lock()
		delete(s.subscribers, sub)
		s.mu.Unlock()
		s.idle.begin()
	}()
	if !s.reply(conn, &protocol.Response{Containers: states}) {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var one [1]byte
		for {
			if _, err := conn.Read(one[:]); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case state := <-sub.exits:
			if !s.reply(conn, &protocol.Response{Container: &state}) {
				return
			}
		case <-sub.lost:
			return
		case <-gone:
			return
		}
	}
}
