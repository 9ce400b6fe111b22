package daemon

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/daemon/instance"
)

// TestKubeletPortIsKept: where the usual port is taken, the kubelet comes back to the one that it had.
func TestKubeletPortIsKept(t *testing.T) {
	i, err := instance.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const host = "127.0.0.1"
	other, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(kubeletPort)))
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		t.Fatal(err)
	}
	if err == nil {
		defer other.Close()
	}
	s := settled{bind: netip.MustParseAddr(host), settledNode: settledNode{nodeIPs: []netip.Addr{netip.MustParseAddr(host)}}}
	s.BindAddress = host
	ports := map[int]bool{}
	for range 3 {
		l, err := listenKubelet(i, s)
		if err != nil {
			t.Fatal(err)
		}
		ports[l.Addr().(*net.TCPAddr).Port] = true
		l.Close()
	}
	if len(ports) != 1 || ports[kubeletPort] {
		t.Errorf("ports %v", ports)
	}
}
