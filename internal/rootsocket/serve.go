package rootsocket

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// Server serves connections of a listener until Stop, as a gRPC server does.
type Server interface {
	Serve(l net.Listener) error
	Stop()
}

// Serve listens on path as Listen does until ctx ends. The server is made when somebody connects: before that there is a listener, and
// nothing else.
func Serve(ctx context.Context, path string, server func() Server) error {
	l, err := Listen(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	first, err := l.Accept()
	if err != nil {
		return fmt.Errorf("wait for the first connection: %w", err)
	}
	s := server()
	end := context.AfterFunc(ctx, s.Stop)
	defer end()
	return s.Serve(&resumed{Listener: l, first: first})
}

// resumed is a listener of which one connection was accepted already.
type resumed struct {
	net.Listener
	once  sync.Once
	first net.Conn
}

func (r *resumed) Accept() (c net.Conn, err error) {
	r.once.Do(func() { c = r.first })
	if c != nil {
		return c, nil
	}
	return r.Listener.Accept()
}
