// Package rootsocket listens on unix sockets that are for root alone.
package rootsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Listen listens on a unix socket at path, which is for root alone, and for whoever this process is. Its folder is made with mode 0700
// when absent. A socket file that nobody listens on is replaced.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another process does already", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), l.Close())
	}
	return rootListener{l}, nil
}

// rootListener turns away other users, who may have come before the socket's mode was set.
type rootListener struct{ net.Listener }

func (l rootListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUser(c)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return c, nil
		}
		// The connection is of no use to anybody; how its end went is of none either.
		_ = c.Close()
	}
}

func peerUser(c net.Conn) (int, error) {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("find user of a connection of type %T", c)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("find user of connection: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, fmt.Errorf("find user of connection: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("find user of connection: %w", credErr)
	}
	return int(cred.Uid), nil
}
