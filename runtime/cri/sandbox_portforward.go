package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
)

// PortForward connects stream to a port on the Pod's localhost, for WebSocket clients of the old protocol.
func (r streamer) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	if port <= 0 || port > 65535 {
		return fmt.Errorf("port %d is out of range", port)
	}
	conn, err := r.s.dialSandbox(ctx, sandboxID, int(port))
	if err != nil {
		return err
	}
	return splice(ctx, conn, stream)
}

// splice carries both ways until the Pod has sent all or ctx ends, and closes both. Each side's end of sending is passed
// on, so that half-closed connections work.
func splice(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	received := make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, conn)
		received <- err
	}()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if cerr := conn.CloseWrite(); err == nil && !errors.Is(cerr, net.ErrClosed) {
			err = cerr
		}
		sent <- err
	}()
	// When the Pod has sent all, the client gets its end. What the client still sends has nobody to answer it.
	err := <-received
	stream.Close()
	conn.Close()
	<-sent
	return ignoreClosed(err)
}

// ignoreClosed drops the errors that only say that one side hung up.
func ignoreClosed(err error) error {
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// dialLoopback connects to a port on 127.0.0.1, or else on ::1, in the network namespace at nsPath. The socket belongs to the namespace
// that it is made in.
func dialLoopback(ctx context.Context, nsPath string, port int) (*net.TCPConn, error) {
	var conn net.Conn
	dial := func() (err error) {
		if nsPath != "" {
			if err := enterNetwork(nsPath); err != nil {
				return err
			}
		}
		var dialer net.Dialer
		if conn, err = dialer.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return nil
		}
		conn6, err6 := dialer.DialContext(ctx, "tcp6", fmt.Sprintf("[::1]:%d", port))
		if err6 != nil {
			return err
		}
		conn = conn6
		return nil
	}
	if err := ownthread.Run(dial); err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// enterNetwork moves the calling thread.
func enterNetwork(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}
