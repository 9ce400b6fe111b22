package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/ownthread"
)

// PortForward connects stream to a port on the Pod's localhost. Each side's end of sending is passed on, so that half-closed
// connections work.
func (r streamer) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	sb, err := r.s.sandbox(sandboxID)
	if err != nil {
		return fmt.Errorf("failed to find sandbox %q in store: %w", sandboxID, err)
	}
	e := sb.get()
	if e.Phase != phaseReady {
		return fmt.Errorf("sandbox container %q is not running", sandboxID)
	}
	if port <= 0 || port > 65535 {
		return fmt.Errorf("port %d is out of range", port)
	}
	nsPath := ""
	if !e.hostNetwork() {
		nsPath = r.s.nsPath(sandboxID, "net")
	}
	conn, err := dialLoopback(ctx, nsPath, int(port))
	if errors.Is(err, unix.ECONNREFUSED) {
		// Nobody listens: the connection ends without an answer, as it would had the client been in the Pod. An error would
		// reach the client as a message, on which client-go gives up all connections of the forward, not only this one.
		klog.FromContext(ctx).Info("Port forward was refused", "sandbox", sandboxID, "port", port)
		return stream.Close()
	}
	if err != nil {
		where := fmt.Sprintf("inside namespace %q", sandboxID)
		return fmt.Errorf("failed to execute portforward in network namespace %q: failed to connect to localhost:%d %s, %w", nsPath, port, where, err)
	}
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
	err = <-received
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
