package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type namedPlugin struct {
	registerapi.UnsafeRegistrationServer
}

func (namedPlugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Name: "deep"}, nil
}

func (namedPlugin) NotifyRegistrationStatus(context.Context, *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, nil
}

// The path of a plugin's socket may be longer than the kernel lets one be that is connected to.
func TestDialDeepSocket(t *testing.T) {
	for name, c := range map[string]struct {
		deep    int    // directories of ten letters
		base    string // name of the socket
		failure string
	}{
		"short":         {1, "a.sock", ""},
		"deep":          {20, "dra.01234567-0123-0123-0123-0123456789ab.sock", ""},
		"too long name": {20, strings.Repeat("n", 95), "is too long for a socket; shorten it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), strings.Repeat("0123456789/", c.deep))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if c.failure == "" {
				serveAt(t, dir, c.base)
			}
			conn, err := Dial(filepath.Join(dir, c.base))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			info, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{}, grpc.WaitForReady(c.failure == ""))
			if c.failure != "" {
				if err == nil || !strings.Contains(err.Error(), c.failure) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || info.Name != "deep" {
				t.Errorf("got %v, %v", info, err)
			}
		})
	}
}

// serveAt serves a plugin at a socket in the directory, in whose own view the path is short.
func serveAt(t *testing.T, dir, base string) {
	t.Helper()
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), base))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, namedPlugin{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}
