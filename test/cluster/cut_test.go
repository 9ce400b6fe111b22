package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/test/e2e/cluster"
)

// inside runs f on a thread in the machine's network.
func (m *machine) inside(f func() error) error {
	return ownthread.Run(func() error {
		if err := netns.Set(m.ns); err != nil {
			return err
		}
		return f()
	})
}

// place is where the machine's instance runs.
func (m *machine) place() cluster.Place {
	m.t.Helper()
	i, err := instance.At(m.data)
	must(m.t, err)
	return cluster.Place{Instance: i, MountInfo: filepath.Join("/proc", strconv.Itoa(m.holder.Process.Pid), "mountinfo")}
}

// ways counts those that lead to other nodes' Pods: routes, neighbours and forwarding entries of the overlay.
func ways(place cluster.Place) (int, error) {
	link, err := netlink.LinkByName("pp" + place.NetworkName() + "vx")
	if err != nil {
		return 0, fmt.Errorf("find the overlay of instance %s: %w", place.Instance.Name, err)
	}
	index, n := link.Attrs().Index, 0
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return 0, err
	}
	for _, r := range routes {
		if r.Gw != nil {
			n++
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_ALL} {
		neighbours, err := netlink.NeighListExecute(netlink.Ndmsg{Family: uint8(family), Index: uint32(index)})
		if err != nil {
			return 0, err
		}
		for _, x := range neighbours {
			if x.State&netlink.NUD_PERMANENT != 0 && !x.IP.IsMulticast() {
				n++
			}
		}
	}
	return n, nil
}

// has is all that comes and goes on the machine with Pods, Services and nodes, in words.
func (m *machine) has() (words string, err error) {
	place := m.place()
	pods, services := place.Tables()
	err = m.inside(func() error {
		i, err := place.Inventory()
		if err != nil {
			return err
		}
		ways, err := ways(place)
		if err != nil {
			return err
		}
		ofPods, err := nettest.Elements(pods)
		if err != nil {
			return err
		}
		ofServices, err := nettest.Elements(services)
		if err != nil {
			return err
		}
		words = fmt.Sprintf("%+v\nways %d\nrules %v %v", i, ways, ofPods, ofServices)
		return nil
	})
	return words, err
}

// wantHas waits until the machine is as it was.
func (m *machine) wantHas(want string) {
	m.t.Helper()
	err := m.place().Await(within(m.t), func() (string, string, error) {
		got, err := m.has()
		return got, want, err
	})
	if err != nil {
		m.t.Errorf("%s: %v", m.name, err)
	}
}

// wantWays waits until there are ways to so many other nodes.
func (m *machine) wantWays(nodes int) {
	m.t.Helper()
	place := m.place()
	err := place.Await(within(m.t), func() (got, want string, err error) {
		n := 0
		err = m.inside(func() (err error) {
			n, err = ways(place)
			return err
		})
		return fmt.Sprint(n), fmt.Sprint(3 * nodes), err // A route, a neighbour and a forwarding entry for each.
	})
	if err != nil {
		m.t.Errorf("ways from %s: %v", m.name, err)
	}
}

// blink is the Service of the Pod that comes anew each time that a node is cut off, mover a Deployment whose Pod does not wait long
// for a node that is away.
const (
	blink = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"blink"},"spec":{"type":"NodePort","selector":{"blink":"yes"},"ports":[{"port":80,"targetPort":8080}]}}`
	mover = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"mover"},"spec":{"selector":{"matchLabels":{"app":"mover"}},"template":{
"metadata":{"labels":{"app":"mover"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"web","image":"peapod.local/hello:latest"}],
"tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":1},
{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":1}]}}}}`
)

// cutOften pulls a node's plug ten times, has its Pods and Services change each time, and puts it in again; twice that takes until
// the node is given up. Whatever the node has missed it makes up for, and nothing is left of what was before.
func cutOften(w *world) {
	var before []string
	for _, m := range w.machines() {
		words, err := m.has()
		must(w.T, err)
		before = append(before, words)
	}
	blinkFile, moverFile := filepath.Join(w.TempDir(), "blink.json"), filepath.Join(w.TempDir(), "mover.json")
	must(w.T, os.WriteFile(blinkFile, []byte(blink), 0o600))
	must(w.T, os.WriteFile(moverFile, []byte(mover), 0o600))
	w.kubectl("apply", "-f", moverFile)
	last := ""
	var memory, goroutines [][2]int
	for i := range 10 {
		name := fmt.Sprintf("blink-%d", i)
		long := i == 2 || i == 7
		var moves mayMove
		if long {
			moves = w.placeMover()
		}
		w.third.cut(true)
		if last != "" {
			w.kubectl("delete", "service", "blink")
			w.kubectl("delete", "pod", last, "--wait=false")
		}
		w.kubectl("apply", "-f", blinkFile)
		w.create(name, "three", `"blink":"yes"`, "")
		if long {
			w.givenUp(moves)
		}
		w.third.cut(false)
		w.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=120s")
		if last != "" {
			w.kubectl("wait", "--for=delete", "pod/"+last, "--timeout=120s")
		}
		if long {
			w.takenBack(moves)
			memory, goroutines = append(memory, [2]int{w.server.resident(), w.third.resident()}), append(goroutines, [2]int{w.goroutines("one"), w.goroutines("three")})
		}
		address := w.kubectl("get", "service", "blink", "-o", "jsonpath={.spec.clusterIP}")
		for _, m := range w.machines() {
			m.answered(address+":80", greeting(name))
		}
		last = name
	}
	w.kubectl("delete", "service", "blink")
	w.kubectl("delete", "pod", last)
	w.kubectl("delete", "deployment", "mover")
	w.kubectl("wait", "--for=delete", "pod", "-l", "app=mover", "--timeout=120s")
	for i, m := range w.machines() {
		m.wantHas(before[i])
	}
	for _, pod := range strings.Fields(w.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")) {
		if strings.HasPrefix(pod, "blink") || strings.HasPrefix(pod, "mover") {
			w.Errorf("Pod %s is left", pod)
		}
	}
	w.Logf("after the long ones: %v MiB, %v goroutines", memory, goroutines)
	for i, node := range []string{"the server", "the node"} {
		if was, is := memory[0][i], memory[1][i]; is > was*5/4+16 {
			w.Errorf("the memory of %s grew from %d to %d MiB", node, was, is)
		}
		if was, is := goroutines[0][i], goroutines[1][i]; is > was*5/4+50 {
			w.Errorf("the goroutines of %s grew from %d to %d", node, was, is)
		}
	}
}

// mayMove is the Pod of the mover before its node is cut off.
type mayMove struct{ name, uid, ip string }

// thePod is the mover's Pod that is not on its way out, and its node.
func (w *world) thePod() (p mayMove, node string) {
	w.Helper()
	w.kubectl("rollout", "status", "deployment/mover", "--timeout=120s")
	for line := range strings.Lines(w.kubectl("get", "pods", "-l", "app=mover", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.podIP} {.spec.nodeName} {.metadata.deletionTimestamp}{"\n"}{end}`)) {
		if f := strings.Fields(line); len(f) == 4 {
			return mayMove{f[0], f[1], f[2]}, f[3]
		}
	}
	w.Fatal("the mover has no Pod")
	return p, ""
}

// placeMover has the mover's Pod be on node three.
func (w *world) placeMover() mayMove {
	w.Helper()
	w.kubectl("cordon", "one", "two")
	w.kubectl("delete", "pod", "-l", "app=mover", "--timeout=120s")
	p, node := w.thePod()
	if node != "three" {
		w.Fatalf("the mover is on node %s", node)
	}
	w.kubectl("uncordon", "one", "two")
	return p
}

// givenUp waits until node three, which is cut off, has lost the mover, and sees what becomes of what is there.
func (w *world) givenUp(was mayMove) {
	w.Helper()
	w.kubectl("wait", "--for=condition=Ready=Unknown", "node/three", "--timeout=120s")
	w.kubectl("wait", "--for=jsonpath={.metadata.deletionTimestamp}", "pod/"+was.name, "--timeout=120s")
	if got := w.kubectl("get", "node", "three", "-o", "jsonpath={.spec.taints[*].key}/{.spec.taints[*].effect}"); got !=
		"node.kubernetes.io/unreachable node.kubernetes.io/unreachable/NoSchedule NoExecute" {
		w.Errorf("the taints of a silent node are %q", got)
	}
	if got := w.kubectl("get", "pod", "on-three", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}`); got != "False " {
		w.Errorf("a Pod on a silent node that tolerates that is ready, and deleted: %s", got)
	}
	is, node := w.thePod()
	if node == "three" || is.uid == was.uid || is.ip == was.ip {
		w.Errorf("the Pod %v of the silent node was replaced by %v on %s", was, is, node)
	}
	w.server.answered(is.ip+":8080", greeting(is.name))
}

// takenBack waits until node three, which is back, has stopped what was moved, and goes on with the rest.
func (w *world) takenBack(was mayMove) {
	w.Helper()
	w.kubectl("wait", "--for=condition=Ready", "node/three", "--timeout=120s")
	w.kubectl("wait", "--for=delete", "pod/"+was.name, "--timeout=120s")
	w.kubectl("wait", "--for=condition=Ready", "pod/on-three", "--timeout=120s")
	w.untainted("three")
}

// resident is the memory of the machine's peapod, in MiB.
func (m *machine) resident() int {
	m.t.Helper()
	mib, err := cluster.Resident(m.running.Process.Pid)
	must(m.t, err)
	return mib
}

// goroutines is how many the process of a node has, by its own metrics.
func (w *world) goroutines(node string) int {
	w.Helper()
	n, err := cluster.Goroutines(w.kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics"))
	must(w.T, err)
	return n
}
