// Package linger makes a server's end of a connection reach its client. A TCP connection that is closed while the client's
// last words lie unread, a ping for instance, is reset: the client loses whatever was still under way to it. Connections of
// this package send all they have and an end, and listen on for a while before they go.
package linger

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// limit is how long a closed connection waits for its client to close its own side.
const limit = 30 * time.Second

// past is a deadline that ends what waits for the network now.
var past = time.Unix(1, 0)

// Listener accepts connections that linger. Close ends those that do so still, and waits for them.
type Listener struct {
	net.Listener

	mu        sync.Mutex
	closed    bool
	lingering map[*net.TCPConn]struct{}
	done      sync.WaitGroup
}

// Listen makes the TCP connections of a listener linger; others are left as they are.
func Listen(l net.Listener) *Listener {
	return &Listener{Listener: l, lingering: map[*net.TCPConn]struct{}{}}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return &conn{TCPConn: tcp, l: l}, nil
	}
	return c, err
}

// Close closes the listener and what lingers.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.lingering {
		_ = c.SetReadDeadline(past) // it fails only where the connection has gone by itself
	}
	l.mu.Unlock()
	l.done.Wait()
	return err
}

// keep drains a connection that is closed for everybody else, and then closes it.
func (l *Listener) keep(c *net.TCPConn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(limit)) != nil {
		return c.Close()
	}
	l.lingering[c] = struct{}{}
	l.done.Go(func() {
		_, _ = io.Copy(io.Discard, c) // however it ends, the connection is over
		c.Close()
		l.mu.Lock()
		delete(l.lingering, c)
		l.mu.Unlock()
	})
	return nil
}

// conn is a connection that lingers. For its user Close has the usual meaning: what waits for it ends, and nothing more
// is read or written.
type conn struct {
	*net.TCPConn
	l *Listener

	closed atomic.Bool
	// reads is held, for reading, while somebody reads: draining waits until nobody does.
	reads sync.RWMutex
	// deadlines keeps the user from moving those that Close sets.
	deadlines sync.Mutex
}

func (c *conn) Read(b []byte) (int, error) {
	c.reads.RLock()
	defer c.reads.RUnlock()
	if c.closed.Load() {
		return 0, c.gone("read")
	}
	n, err := c.TCPConn.Read(b)
	if err != nil && c.closed.Load() {
		err = c.gone("read")
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	if err != nil && c.closed.Load() {
		err = c.gone("write")
	}
	return n, err
}

// ReadFrom is what io.Copy uses to write.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	if err != nil && c.closed.Load() {
		err = c.gone("write")
	}
	return n, err
}

// WriteTo is what io.Copy uses to read: through Read, which knows when to end.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// gone is the error that a closed connection of package net has.
func (c *conn) gone(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: net.ErrClosed}
}

func (c *conn) Close() error {
	c.deadlines.Lock()
	if c.closed.Swap(true) {
		c.deadlines.Unlock()
		return c.gone("close")
	}
	_ = c.TCPConn.SetDeadline(past) // it fails only where the connection is broken, and then nobody waits
	c.deadlines.Unlock()
	c.reads.Lock()
	defer c.reads.Unlock()
	return c.l.keep(c.TCPConn)
}

func (c *conn) SetDeadline(t time.Time) error     { return c.setDeadline(c.TCPConn.SetDeadline, t) }
func (c *conn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.TCPConn.SetReadDeadline, t) }
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.TCPConn.SetWriteDeadline, t)
}

func (c *conn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if c.closed.Load() {
		return c.gone("set")
	}
	return set(t)
}
