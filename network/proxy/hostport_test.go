package proxy

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/bell"
	"github.com/peapod/peapod/internal/refusedports"
)

// listen opens a port of the host, and returns it.
func listen(t *testing.T, network, address string) (uint16, func()) {
	t.Helper()
	var at net.Addr
	var end func() error
	if strings.HasPrefix(network, "tcp") {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		at, end = l.Addr(), l.Close
	} else {
		l, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		at, end = l.LocalAddr(), l.Close
	}
	t.Cleanup(func() { _ = end() }) // closed twice where the test did
	_, text, err := net.SplitHostPort(at.String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port), func() { _ = end() }
}

func TestPortsOfTheHost(t *testing.T) {
	own4, own6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for _, c := range []struct {
		network, address string
		addr             netip.Addr
		protocol, other  uint8
	}{
		{"tcp4", "127.0.0.1:0", own4, unix.IPPROTO_TCP, unix.IPPROTO_UDP},
		{"tcp4", "0.0.0.0:0", own4, unix.IPPROTO_TCP, unix.IPPROTO_UDP},
		{"tcp", "[::]:0", own4, unix.IPPROTO_TCP, unix.IPPROTO_UDP}, // takes IPv4, too
		{"tcp6", "[::1]:0", own6, unix.IPPROTO_TCP, unix.IPPROTO_UDP},
		{"udp4", "127.0.0.1:0", own4, unix.IPPROTO_UDP, unix.IPPROTO_TCP},
	} {
		port, end := listen(t, c.network, c.address)
		for protocol, want := range map[uint8]bool{c.protocol: true, c.other: false} {
			if got, err := inUse(Frontend{c.addr, protocol, port}); err != nil || got != want {
				t.Errorf("%s %s: %s in use: %v, %v; want %v", c.network, c.address, protocolName(protocol), got, err, want)
			}
		}
		end()
		if got, err := inUse(Frontend{c.addr, c.protocol, port}); err != nil || got {
			t.Errorf("%s %s, closed: in use: %v, %v", c.network, c.address, got, err)
		}
	}
	if used, err := inUse(Frontend{netip.MustParseAddr("192.0.2.77"), unix.IPPROTO_TCP, 22}); used || err != nil {
		t.Errorf("an address that the machine does not have: %v, %v", used, err)
	}
}

func TestServiceYieldsToTheHost(t *testing.T) {
	own := netip.MustParseAddr("127.0.0.1")
	port, end := listen(t, "tcp4", "0.0.0.0:0")
	events := record.NewFakeRecorder(10)
	p := &Proxy{cfg: Config{NodeName: "n", Recorder: events}, at: where{addresses: map[netip.Addr]bool{own: true}},
		state: newState(), told: map[types.NamespacedName]map[Frontend]bool{}, bell: bell.New()}
	defer p.sockets.close()
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = "ns", "s"
	name := types.NamespacedName{Namespace: "ns", Name: "s"}
	taken, clusterIP := Frontend{own, unix.IPPROTO_TCP, port}, Frontend{netip.MustParseAddr("10.96.0.9"), unix.IPPROTO_TCP, port}
	nodePort := Frontend{netip.IPv4Unspecified(), unix.IPPROTO_TCP, port}
	look := func() map[Frontend]*target {
		fronts := map[Frontend]*target{taken: {}, clusterIP: {}, nodePort: {}}
		p.yield(t.Context(), svc, fronts)
		p.state.set(name, svc.CreationTimestamp.Time, fronts)
		return fronts
	}
	for range 2 { // it is said once
		if got := look(); got[taken] != nil || got[clusterIP] == nil || got[nodePort] == nil {
			t.Fatalf("frontends while the host listens: %v", got)
		}
	}
	if len(events.Events) != 1 {
		t.Fatalf("%d events", len(events.Events))
	}
	want := "Warning HostPortInUse A process of node n listens on TCP port " + strconv.Itoa(int(port)) + " at 127.0.0.1: "
	if got := <-events.Events; !strings.HasPrefix(got, want) {
		t.Errorf("event is %q\nwant %q...", got, want)
	}
	if err := p.report(t.Context()); err != nil || p.sockets.ended() {
		t.Fatalf("before any socket has ended: %v", err)
	}
	// Other sockets that end are nobody's business; this one wakes the proxy.
	_, other := listen(t, "tcp4", "127.0.0.1:0")
	other()
	end()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rounds := 0 // one that nobody rings for, and one
	p.bell.Answer(ctx, "", func(context.Context) error {
		if rounds++; rounds == 2 {
			cancel()
		}
		return nil
	})
	if rounds != 2 {
		t.Fatal("nothing is heard of the socket that has ended")
	}
	if !p.sockets.ended() || p.sockets.ended() {
		t.Error("it does not say once that the socket has ended")
	}
	if got := look(); got[taken] == nil {
		t.Error("the Service does not get the port that is free now")
	}
	if err := p.report(t.Context()); err != nil || p.sockets.file != nil {
		t.Errorf("it listens on although no port is wanted: %v", err)
	}
	// What it has it keeps.
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Skip("somebody else has taken the port meanwhile")
	}
	defer l.Close()
	if got := look(); got[taken] == nil {
		t.Error("the Service lost a port that it had")
	}
}

// The ports that a load balancer is not to have at the node are reported when they change, and when the Node says otherwise.
func TestRefusedPortsAreReported(t *testing.T) {
	own := netip.MustParseAddr("127.0.0.1")
	port, end := listen(t, "tcp4", "0.0.0.0:0")
	reports := make(chan string, 10)
	p := &Proxy{cfg: Config{NodeName: "n", Report: func(_ context.Context, text string) error { reports <- text; return nil }},
		at: where{addresses: map[netip.Addr]bool{own: true}}, state: newState(), told: map[types.NamespacedName]map[Frontend]bool{}, bell: bell.New()}
	defer p.sockets.close()
	node := &corev1.Node{}
	node.Name = "n"
	sees := func(refused string) {
		node = node.DeepCopy()
		node.Annotations = map[string]string{refusedports.Annotation: refused}
		p.nodeChanged(node)
	}
	svc := service("s", "10.96.0.9", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].Port = corev1.ServiceTypeLoadBalancer, int32(port)
	})
	other := service("other", "10.96.0.8", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].Port, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, int32(port), ptr.To("example.com/other")
	})
	reported := func() string {
		t.Helper()
		for _, s := range []*corev1.Service{svc, other} {
			p.yield(t.Context(), s, map[Frontend]*target{})
		}
		if err := p.report(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case text := <-reports:
			return text
		default:
			return "nothing"
		}
	}
	want := func(when, want string) {
		t.Helper()
		if got := reported(); got != want {
			t.Errorf("%s: %q is reported, want %q", when, got, want)
		}
	}
	refused := "TCP/" + strconv.Itoa(int(port))
	want("before there is a Node", "nothing")
	sees("")
	want("a port is taken", refused)
	sees(refused)
	want("the Node says so", "nothing")
	sees("")
	want("the Node is another", refused)
	sees(refused)
	end()
	want("the port is free", "")
	sees("")
	want("the Node says so", "nothing")
}
