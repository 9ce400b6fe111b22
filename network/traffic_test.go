package network_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/network/nettest"
)

func TestPodTraffic(t *testing.T) {
	world := nettest.NewWorld(t)
	n := open(t, dual())
	a, a4, a6 := addPod(t, n, "a")
	b, b4, b6 := addPod(t, n, "b")
	nettest.Listen(t, world, "tcp", ":80")
	nettest.Listen(t, nil, "tcp", ":81")
	for _, ns := range []*nettest.Namespace{a, b} {
		nettest.Listen(t, ns, "tcp", ":80")
		nettest.Listen(t, ns, "udp", ":80")
	}
	nettest.WantFrom(t, "Pod to Pod", a, "tcp", b4+":80", a4)
	nettest.WantFrom(t, "Pod to Pod", b, "udp", a4+":80", b4)
	nettest.WantFrom(t, "Pod to Pod", a, "tcp", "["+b6+"]:80", a6)
	nettest.WantFrom(t, "Pod to itself", a, "tcp", a4+":80", a4)
	nettest.WantFrom(t, "localhost", a, "tcp", "127.0.0.1:80", "127.0.0.1")
	nettest.WantFrom(t, "Pod to host", a, "tcp", "192.0.2.1:81", a4)
	nettest.WantFrom(t, "Pod to host", a, "tcp", "[2001:db8::1]:81", a6)
	nettest.WantFrom(t, "Pod to its gateway", a, "tcp", "10.244.3.1:81", a4)
	nettest.WantFrom(t, "host to Pod", nil, "tcp", a4+":80", "10.244.3.1")
	nettest.WantFrom(t, "host to Pod", nil, "tcp", "["+a6+"]:80", "fd00:244:3::1")
	nettest.WantFrom(t, "Pod to the outside", a, "tcp", "192.0.2.2:80", "192.0.2.1")
	nettest.WantFrom(t, "Pod to the outside", b, "tcp", "[2001:db8::2]:80", "2001:db8::1")
}

func TestHostPorts(t *testing.T) {
	world := nettest.NewWorld(t)
	n := open(t, dual())
	pod, v4, _ := addPod(t, n, "server",
		&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, HostPort: 8080, ContainerPort: 80},
		&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_UDP, HostPort: 5353, ContainerPort: 53},
		&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, HostPort: 9090, ContainerPort: 80, HostIp: "127.0.0.1"},
		&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, HostPort: 9091, ContainerPort: 80, HostIp: "192.0.2.1"},
		&runtimeapi.PortMapping{ContainerPort: 99})
	client, c4, _ := addPod(t, n, "client")
	nettest.Listen(t, pod, "tcp", ":80")
	nettest.Listen(t, pod, "udp", ":53")

	nettest.WantFrom(t, "outside", world, "tcp", "192.0.2.1:8080", "192.0.2.2")
	nettest.WantFrom(t, "outside", world, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
	nettest.WantFrom(t, "outside", world, "udp", "192.0.2.1:5353", "192.0.2.2")
	nettest.WantFrom(t, "host", nil, "tcp", "127.0.0.1:8080", "10.244.3.1")
	nettest.WantFrom(t, "host", nil, "udp", "127.0.0.1:5353", "10.244.3.1")
	nettest.WantFrom(t, "host", nil, "tcp", "192.0.2.1:8080", "")
	nettest.WantFrom(t, "host", nil, "tcp", "[2001:db8::1]:8080", "")
	nettest.WantFrom(t, "other Pod", client, "tcp", "192.0.2.1:8080", c4)
	nettest.WantFrom(t, "the Pod itself", pod, "tcp", "192.0.2.1:8080", "")
	nettest.WantFrom(t, "the Pod itself", pod, "tcp", "[2001:db8::1]:8080", "")
	nettest.WantFrom(t, "host, one address", nil, "tcp", "127.0.0.1:9090", "10.244.3.1")
	nettest.WantFrom(t, "outside, one address", world, "tcp", "192.0.2.1:9091", "192.0.2.2")
	for _, address := range []string{"192.0.2.1:9090", "192.0.2.1:80"} {
		if from, err := nettest.Ask(world, "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("outside to %s: %q, %v", address, from, err)
		}
	}

	_, err := n.Setup(t.Context(), "rival", nettest.NewNamespace(t).Path, []*runtimeapi.PortMapping{{HostPort: 8080, ContainerPort: 1}})
	if err == nil || !strings.Contains(err.Error(), "host port 8080/TCP is in use by sandbox server") {
		t.Errorf("a second Pod for the port: %v", err)
	}
	nettest.Must(t, n.Teardown(t.Context(), "server"))
	if from, err := nettest.Ask(world, "tcp", "192.0.2.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after teardown: %q, %v", from, err)
	}
	// The same port, and the flow that a client keeps using, lead to the next Pod.
	next, n4, _ := addPod(t, n, "next", &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_UDP, HostPort: 5353, ContainerPort: 53})
	nettest.Listen(t, next, "udp", ":53")
	nettest.WantFrom(t, "outside, after a change", world, "udp", "192.0.2.1:5353", "192.0.2.2")
	if n4 == v4 {
		t.Errorf("the next Pod has the address %s of the one before", n4)
	}
}

// TestUDPFlowFollows: a client that keeps its source port speaks with whoever has the port: a Pod, nobody,
// another Pod, the host.
func TestUDPFlowFollows(t *testing.T) {
	world := nettest.NewWorld(t)
	n := open(t, dual())
	port := &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_UDP, HostPort: 5353, ContainerPort: 53}
	first, _, _ := addPod(t, n, "first", port)
	nettest.Listen(t, first, "udp4", ":53")
	var c *net.UDPConn
	nettest.Must(t, world.Do(func() (err error) {
		c, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5353})
		return err
	}))
	defer c.Close()
	nettest.Must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	exchange := func() {
		t.Helper()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	exchange()
	nettest.Must(t, n.Teardown(t.Context(), "first"))
	// Nobody: a packet now begins a flow to the host itself.
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 100)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("with no Pod: %v", err)
	}
	second, _, _ := addPod(t, n, "second", port)
	nettest.Listen(t, second, "udp4", ":53")
	exchange()
	nettest.Must(t, n.Teardown(t.Context(), "second"))
	nettest.Listen(t, nil, "udp4", ":5353")
	exchange()
}

// TestGuard: a Pod with all rights in its namespace can neither send from a foreign address nor reach the host's loopback.
func TestGuard(t *testing.T) {
	nettest.NewWorld(t)
	n := open(t, dual())
	evil, evil4, _ := addPod(t, n, "evil")
	_, victim4, _ := addPod(t, n, "victim")
	nettest.Listen(t, nil, "tcp", ":81")
	// From here on the Pod knows its gateway, and packets go out at once and in order.
	nettest.WantFrom(t, "Pod to gateway", evil, "tcp", "10.244.3.1:81", "")
	var onLoopback, onHost net.PacketConn
	for address, conn := range map[string]*net.PacketConn{"127.0.0.1:7777": &onLoopback, "192.0.2.1:7778": &onHost} {
		c, err := net.ListenPacket("udp4", address)
		nettest.Must(t, err)
		defer c.Close()
		nettest.Must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		*conn = c
	}
	links, _ := podLinks(t)
	host, err := netlink.LinkByName(links[0]) // the Pod that was made first
	nettest.Must(t, err)
	nettest.Must(t, evil.Do(func() error {
		// Its own kernel sends to no loopback address, so it makes the packet itself.
		if err := sendFrame(host.Attrs().HardwareAddr, evil4, "127.0.0.1", 7777); err != nil {
			return err
		}
		if err := sendFrame(host.Attrs().HardwareAddr, victim4, "192.0.2.1", 7778); err != nil {
			return err
		}
		return send("192.0.2.1:7778")
	}))
	nettest.Must(t, send("127.0.0.1:7777"))
	for what, c := range map[string]net.PacketConn{"loopback": onLoopback, "host": onHost} {
		_, from, err := c.ReadFrom(make([]byte, 10))
		nettest.Must(t, err)
		addr := from.(*net.UDPAddr).AddrPort().Addr()
		if what == "loopback" && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr.String() == victim4 {
			t.Errorf("%s got a packet from %s", what, from)
		}
	}
}

// send sends one UDP packet.
func send(address string) error {
	c, err := net.Dial("udp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

// sendFrame puts a UDP packet with any addresses on eth0.
func sendFrame(to net.HardwareAddr, source, destination string, port uint16) error {
	packet := make([]byte, 29)
	packet[0], packet[3], packet[8], packet[9] = 0x45, 29, 64, unix.IPPROTO_UDP
	copy(packet[12:], netip.MustParseAddr(source).AsSlice())
	copy(packet[16:], netip.MustParseAddr(destination).AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(packet[20:], 4000)
	binary.BigEndian.PutUint16(packet[22:], port)
	binary.BigEndian.PutUint16(packet[24:], 9)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: eth0.Attrs().Index, Halen: 6} // IPv4, big endian
	copy(addr.Addr[:], to)
	return unix.Sendto(fd, packet, 0, addr)
}
