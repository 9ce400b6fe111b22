package network_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/network"
)

// TestMain runs the tests in a network namespace of their own, which is the host of all that they do.
func TestMain(m *testing.M) {
	const inside = "NETWORK_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		// The net package finds out once, in the namespace of the first listener, whether there is IPv6.
		if err := configure("lo"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Println("needs root")
		os.Exit(0)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// namespace is a network namespace with a path, as the runtime makes for sandboxes.
type namespace struct {
	t    *testing.T
	path string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := &namespace{t, path}
	t.Cleanup(ns.remove)
	return ns
}

func (n *namespace) remove() {
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		n.t.Error(err)
	}
}

// do runs f on a thread in the namespace; nil is the host's.
func (n *namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	return ownthread.Run(func() error {
		ns, err := netns.GetFromPath(n.path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// listen answers each TCP connection and each UDP packet with the address of its peer. It lives as long as the test.
func listen(t *testing.T, ns *namespace, proto, address string) {
	t.Helper()
	err := ns.do(func() error {
		if strings.HasPrefix(proto, "udp") {
			c, err := net.ListenPacket(proto, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go answerPackets(c)
			return nil
		}
		l, err := net.Listen(proto, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go answerConnections(l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func answerConnections(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
		c.Close()
	}
}

func answerPackets(c net.PacketConn) {
	buf := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := c.WriteTo([]byte(from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()+"\n"), from); err != nil {
			return
		}
	}
}

// ask connects from a namespace and returns as whom the listener sees it.
func ask(ns *namespace, proto, address string) (from string, err error) {
	err = ns.do(func() error {
		c, err := net.DialTimeout(proto, address, 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if strings.HasPrefix(proto, "udp") {
			if _, err := io.WriteString(c, "hello"); err != nil {
				return err
			}
		}
		from, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimSpace(from), err
}

func wantFrom(t *testing.T, what string, ns *namespace, proto, address string, want string) {
	t.Helper()
	from, err := ask(ns, proto, address)
	if err != nil || want != "" && from != want {
		t.Errorf("%s: %s %s is reached from %q, want %q: %v", what, proto, address, from, want, err)
	}
}

// newWorld is a machine outside: the host has 192.0.2.1 and 2001:db8::1 towards it, it has .2 and ::2 and no route to Pods.
func newWorld(t *testing.T) *namespace {
	t.Helper()
	world := newNamespace(t)
	ns, err := netns.GetFromPath(world.path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "world"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "up", PeerNamespace: netlink.NsFd(ns), PeerTxQLen: -1}))
	t.Cleanup(func() { netlink.LinkDel(&netlink.Veth{LinkAttrs: attrs}) })
	must(t, configure("world", "192.0.2.1/24", "2001:db8::1/64"))
	must(t, world.do(func() error {
		if err := configure("lo"); err != nil {
			return err
		}
		return configure("up", "192.0.2.2/24", "2001:db8::2/64")
	}))
	return world
}

func configure(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrReplace(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg network.Config) *network.Network {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if cfg.Instance == "" {
		cfg.Instance = t.Name()
	}
	n, err := network.New(cfg)
	must(t, err)
	must(t, n.Open(t.Context()))
	t.Cleanup(func() {
		if err := n.Uninstall(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func dual() network.Config {
	return network.Config{NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:3::/64")}}
}

// addPod makes a namespace and its network.
func addPod(t *testing.T, n *network.Network, id string, ports ...*runtimeapi.PortMapping) (ns *namespace, v4, v6 string) {
	t.Helper()
	ns = newNamespace(t)
	addrs, err := n.Setup(t.Context(), id, ns.path, ports)
	must(t, err)
	if len(addrs) == 2 {
		v6 = addrs[1].String()
	}
	return ns, addrs[0].String(), v6
}
