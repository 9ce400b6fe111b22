package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial makes a client of a gRPC server at a socket. It connects when it is used.
func Dial(socket string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+socket, append(more, grpc.WithAuthority("localhost"), grpc.WithContextDialer(connect),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())...)
	if err != nil {
		return nil, fmt.Errorf("connect to plugin at %s: %w", socket, err)
	}
	return conn, nil
}

// longest is how long the path of a socket may be for the kernel, whose field for it ends with a zero.
const longest = len(syscall.RawSockaddrUnix{}.Path) - 1

// connect connects to a socket. One whose path is too long for the kernel, as it may be where the data directory's is long already, is
// reached by way of its directory's descriptor.
func connect(ctx context.Context, socket string) (net.Conn, error) {
	short := socket
	if len(socket) > longest {
		dir, err := os.OpenFile(filepath.Dir(socket), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, fmt.Errorf("open directory of socket: %w", err)
		}
		defer dir.Close()
		if short = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)); len(short) > longest {
			return nil, fmt.Errorf("connect to %s: the name %s is too long for a socket; shorten it", socket, filepath.Base(socket))
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}
