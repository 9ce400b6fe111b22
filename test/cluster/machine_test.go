package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/test/e2e/cluster"
)

// wire is the network between the machines: a bridge in a namespace of its own, so that nothing of it is on this machine.
type wire struct {
	t    *testing.T
	path string // of the network namespace
	ns   netns.NsHandle
}

// newNamespace pins a new network namespace at a file and opens it.
func newNamespace(t *testing.T, name string) (string, netns.NsHandle) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}))
	ns, err := netns.GetFromPath(path)
	must(t, err)
	t.Cleanup(func() {
		ns.Close()
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path, ns
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t}
	w.path, w.ns = newNamespace(t, "wire")
	h := w.handle()
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bridge"
	must(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	setUp(t, h, "bridge")
	return w
}

func (w *wire) handle() *netlink.Handle {
	w.t.Helper()
	h, err := netlink.NewHandleAt(w.ns, unix.NETLINK_ROUTE)
	must(w.t, err)
	return h
}

func setUp(t *testing.T, h *netlink.Handle, name string) {
	t.Helper()
	link, err := h.LinkByName(name)
	must(t, err)
	must(t, h.LinkSetUp(link))
}

// machine is one computer: a network namespace on the wire, and a mount namespace in which /run is its own: not /run/peapod alone, as
// who removes that directory outside, like the last instance there, would take the mount with it. The process that holds the mount
// namespace lives as long as the test.
type machine struct {
	t      *testing.T
	w      *wire
	binary string
	name   string
	// ip is its IPv4 address; empty where it has none but 127.0.0.1.
	ip string
	// ip6 is its IPv6 address; empty where the kernel has no IPv6.
	ip6    string
	data   string
	log    *cluster.Log
	path   string // of the network namespace
	ns     netns.NsHandle
	holder *exec.Cmd

	running *exec.Cmd
	ended   chan error
	// rules hears of changes on the machine; nil until somebody wants to.
	rules *nettest.Rules
}

func newMachine(t *testing.T, w *wire, binary, name string, number int) *machine {
	t.Helper()
	m := &machine{t: t, w: w, binary: binary, name: name, ip: fmt.Sprintf("172.31.255.%d", number)}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		m.ip6 = fmt.Sprintf("fd00:172:31::%d", number)
	}
	m.make()
	return m
}

// newMachine6 is newMachine of one that has IPv6 alone, but for 127.0.0.1.
func newMachine6(t *testing.T, w *wire, binary, name string, number int) *machine {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("the kernel has no IPv6")
	}
	m := &machine{t: t, w: w, binary: binary, name: name, ip6: fmt.Sprintf("fd00:172:31::%d", number)}
	m.make()
	return m
}

// make makes the machine with its addresses.
func (m *machine) make() {
	t, name := m.t, m.name
	t.Helper()
	// Not t.TempDir: the names of sockets in there must be short.
	dir, err := os.MkdirTemp("/tmp", "peapod-cluster-"+name+"-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	m.data, m.log = filepath.Join(dir, "data"), &cluster.Log{File: filepath.Join(dir, "log")}
	m.path, m.ns = newNamespace(t, name)
	m.plug()
	m.hold()
	t.Cleanup(m.remove)
}

// plug connects the machine to the wire.
func (m *machine) plug() {
	m.t.Helper()
	h := m.w.handle()
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = m.name
	must(m.t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wire", PeerNamespace: netlink.NsFd(m.ns), PeerTxQLen: -1}))
	port, err := h.LinkByName(m.name)
	must(m.t, err)
	bridge, err := h.LinkByName("bridge")
	must(m.t, err)
	must(m.t, h.LinkSetMaster(port, bridge))
	must(m.t, h.LinkSetUp(port))
	inside, err := netlink.NewHandleAt(m.ns, unix.NETLINK_ROUTE)
	must(m.t, err)
	defer inside.Close()
	setUp(m.t, inside, "lo")
	link, err := inside.LinkByName("wire")
	must(m.t, err)
	for _, text := range []string{m.ip + "/24", m.ip6 + "/64"} {
		if text[0] == '/' {
			continue
		}
		addr, err := netlink.ParseAddr(text)
		must(m.t, err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		must(m.t, inside.AddrAdd(link, addr))
	}
	must(m.t, inside.LinkSetUp(link))
}

// cut pulls the machine's plug, or puts it in again.
func (m *machine) cut(off bool) {
	m.t.Helper()
	h := m.w.handle()
	defer h.Close()
	port, err := h.LinkByName(m.name)
	must(m.t, err)
	if off {
		must(m.t, h.LinkSetDown(port))
		return
	}
	must(m.t, h.LinkSetUp(port))
}

// hold starts the process that keeps the mount namespace, and waits until the namespace is ready.
func (m *machine) hold() {
	m.t.Helper()
	m.holder = exec.Command("nsenter", "--net="+m.path, "unshare", "--mount", "--propagation", "private",
		"sh", "-ec", "mount -t tmpfs machine /run; mkdir /run/peapod; echo ready; exec cat")
	// It ends with its input, which ends with this process.
	_, err := m.holder.StdinPipe()
	must(m.t, err)
	out, err := m.holder.StdoutPipe()
	must(m.t, err)
	must(m.t, m.holder.Start())
	if _, err := out.Read(make([]byte, 16)); err != nil {
		m.t.Fatalf("make machine %s: %v", m.name, err)
	}
}

// command runs on the machine.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	at := []string{fmt.Sprintf("--target=%d", m.holder.Process.Pid), "--mount", "--net", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(at, args...)...)
	cmd.Env = append(os.Environ(), "PEAPOD_DATA_DIR="+m.data, "KUBECONFIG=", "HOME="+filepath.Dir(m.data))
	return cmd
}

// peapod is `peapod args...` on the machine.
func (m *machine) peapod(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := m.command(ctx, append([]string{m.binary}, args...)...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: peapod %s: %w: %s", m.name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// do is peapod, which must succeed.
func (m *machine) do(args ...string) string {
	m.t.Helper()
	out, err := m.peapod(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// start starts a server or agent, whatever the disk has left, and waits until it is ready.
func (m *machine) start(args ...string) {
	m.t.Helper()
	m.launch(args...)
	m.do("status", "--wait", "2m")
}

// launch is start, which does not wait.
func (m *machine) launch(args ...string) {
	m.t.Helper()
	log, err := m.log.Open()
	must(m.t, err)
	defer log.Close()
	args = slices.Insert(slices.Clone(args), 1, cluster.AnyDisk...)
	cmd := m.command(context.Background(), append([]string{m.binary}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(m.t, cmd.Start())
	m.running, m.ended = cmd, make(chan error, 1)
	go func() { m.ended <- cmd.Wait() }()
}

// end ends it by a signal, and waits.
func (m *machine) end(s syscall.Signal) {
	m.t.Helper()
	if m.running == nil {
		return
	}
	must(m.t, m.running.Process.Signal(s))
	if err := <-m.ended; err != nil && s == unix.SIGTERM {
		m.t.Errorf("%s ended with %v", m.name, err)
	}
	m.running = nil
}

// tell shows what a failed test left in the cluster, as the server on this machine sees it.
func (m *machine) tell() {
	if _, err := os.Stat(filepath.Join(m.data, "admin.kubeconfig")); m.running == nil || err != nil {
		return // An agent, or a server that ended.
	}
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"}, {"describe", "nodes"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"get", "pods", "-A", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{\"\\n\"}{end}"},
	} {
		out, err := m.peapod(append([]string{"kubectl", "--request-timeout=10s"}, args...)...)
		fmt.Fprintf(os.Stderr, "--- %s: kubectl %s (%v) ---\n%s", m.name, strings.Join(args, " "), err, out)
	}
}

// remove uninstalls what is on the machine and looks for what is left of it.
func (m *machine) remove() {
	if m.t.Failed() {
		if err := m.log.Tell(os.Stderr, m.name); err != nil {
			m.t.Error(err)
		}
		m.tell()
	}
	if out, err := m.peapod("uninstall", "--yes"); err != nil {
		m.t.Errorf("%v: %s", err, out)
	}
	if m.running != nil {
		<-m.ended
	}
	// Not m.ns: that of a machine whose power was cut is closed by now.
	ns, err := netns.GetFromPid(m.holder.Process.Pid)
	must(m.t, err)
	defer ns.Close()
	if inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		m.t.Error(err)
	} else {
		links, err := netdump.List(inside.LinkList)
		for _, l := range links {
			if name := l.Attrs().Name; strings.HasPrefix(name, "pp") {
				m.t.Errorf("%s: interface %s is left", m.name, name)
			}
		}
		if err != nil {
			m.t.Error(err)
		}
		m.lookAtLoopback(inside)
		inside.Close()
	}
	if err := m.holder.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		m.t.Error(err)
	}
	_ = m.holder.Wait() // it was killed
}

// lookAtLoopback tells of addresses and routes that are left on lo: those of the cluster's DNS, and to Services.
func (m *machine) lookAtLoopback(inside *netlink.Handle) {
	m.t.Helper()
	lo, err := inside.LinkByName("lo")
	must(m.t, err)
	addrs, err := inside.AddrList(lo, netlink.FAMILY_ALL)
	must(m.t, err)
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			m.t.Errorf("%s: address %s is left on lo", m.name, a.IP)
		}
	}
	routes, err := inside.RouteList(lo, netlink.FAMILY_ALL)
	must(m.t, err)
	for _, r := range routes {
		if r.Dst == nil || !r.Dst.IP.IsLoopback() {
			m.t.Errorf("%s: a route is left on lo: %s", m.name, r)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
