// Package nettest makes machines and Pods of network namespaces, for tests that send real packets: the whole test runs in a
// namespace of its own, which is the host, and nothing of it is seen on the machine.
package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
)

// Main runs a package's tests in a network namespace of their own, which is the host of all that they do, and ends the
// process. It is what TestMain calls. Without root there are no namespaces, and no test runs.
func Main(m *testing.M) {
	const inside = "NETTEST_INSIDE"
	if os.Getenv(inside) != "" {
		// The net package finds out once, in the namespace of the first listener, whether there is IPv6.
		if err := Configure("lo"); err != nil {
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

// Namespace is a network namespace with a path, as the runtime makes for sandboxes. A nil one is the host's.
type Namespace struct {
	// Path is where it is pinned.
	Path string

	t *testing.T
}

// NewNamespace makes one, which goes with the test.
func NewNamespace(t *testing.T) *Namespace {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	Must(t, os.WriteFile(path, nil, 0o600))
	Must(t, ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}))
	n := &Namespace{Path: path, t: t}
	t.Cleanup(n.Remove)
	return n
}

// Remove unpins the namespace, as the end of its Pod does. It can be repeated.
func (n *Namespace) Remove() {
	if err := unix.Unmount(n.Path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		n.t.Error(err)
	}
}

// Do runs f on a thread in the namespace.
func (n *Namespace) Do(f func() error) error {
	if n == nil {
		return f()
	}
	return ownthread.Run(func() error {
		ns, err := netns.GetFromPath(n.Path)
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

// Open returns a handle of the namespace, which is closed with the test.
func (n *Namespace) Open() netns.NsHandle {
	n.t.Helper()
	ns, err := netns.GetFromPath(n.Path)
	Must(n.t, err)
	n.t.Cleanup(func() { Must(n.t, ns.Close()) })
	return ns
}

// NewWorld is a machine outside: the host has 192.0.2.1 and 2001:db8::1 towards it, it has .2 and ::2 and no route to Pods.
func NewWorld(t *testing.T) *Namespace {
	t.Helper()
	world := NewNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "world"
	Must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "up", PeerNamespace: netlink.NsFd(world.Open()), PeerTxQLen: -1}))
	t.Cleanup(func() { netlink.LinkDel(&netlink.Veth{LinkAttrs: attrs}) })
	Must(t, Configure("world", "192.0.2.1/24", "2001:db8::1/64"))
	Must(t, world.Do(func() error {
		if err := Configure("lo"); err != nil {
			return err
		}
		return Configure("up", "192.0.2.2/24", "2001:db8::2/64")
	}))
	return world
}

// Configure gives an interface addresses and sets it up.
func Configure(name string, addresses ...string) error {
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

// Must ends the test over an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
