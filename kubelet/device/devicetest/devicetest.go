// Package devicetest has what device plugins of tests have in common. They are real: they listen, register and are asked.
package devicetest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/internal/testwait"
)

// Plugin is embedded in a plugin, which has Allocate and whatever else it is asked itself.
type Plugin struct {
	api.UnimplementedDevicePluginServer
	// Lists takes the devices that there are from now on. Serve makes it.
	Lists chan []*api.Device
	// Stop ends what Serve began, and returns when it has ended. It may be called again.
	Stop func()
}

// ListAndWatch implements api.DevicePluginServer.
func (p *Plugin) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		select {
		case list := <-p.Lists:
			if err := s.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// Serve has whole, which p is in, listen at a socket until Stop or the end of the test.
func (p *Plugin) Serve(t testing.TB, whole api.DevicePluginServer, socket string) {
	t.Helper()
	p.Lists = make(chan []*api.Device, 10)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, whole)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	p.Stop = sync.OnceFunc(func() { s.Stop(); serving.Wait() })
	t.Cleanup(p.Stop)
}

// AwaitKubelet waits until somebody listens at a kubelet's socket.
func AwaitKubelet(t testing.TB, socket string) {
	t.Helper()
	testwait.Until(t, func() string { return "the kubelet listens at " + socket }, testwait.Polling(), func() bool {
		c, err := net.Dial("unix", socket)
		return err == nil && c.Close() == nil
	})
}

// Register asks the kubelet that listens at a socket to register a plugin, as soon as it does.
func Register(ctx context.Context, socket string, r *api.RegisterRequest) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	_, err = api.NewRegistrationClient(conn).Register(ctx, r, grpc.WaitForReady(true))
	return errors.Join(err, conn.Close())
}
