package terminal

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/peapod/peapod/daemon/instance"
)

// Connect returns a connection to the running server or agent of i, by the socket that only root can open; nil where none runs. One that
// is starting is an error.
func Connect(i instance.Instance) (*grpc.ClientConn, error) {
	probe, err := net.Dial("unix", i.Socket())
	if err == nil {
		err = probe.Close()
	} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) { // the socket outlives a server that was killed
		return nil, starting(i)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+i.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w", err)
	}
	return conn, nil
}

// starting returns an error where a server runs that does not answer yet.
func starting(i instance.Instance) error {
	s, err := i.Running()
	if err != nil || s == nil {
		return err
	}
	defer s.Close()
	return fmt.Errorf("%s (process %d) with data directory %s is starting: 'peapod status --wait 1m' returns when it is ready", i.Program(), s.PID, i.DataDir)
}
