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

// blink is the Service of the Pod that comes anew each time that a node is cut off.
const blink = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"blink"},"spec":{"type":"NodePort","selector":{"blink":"yes"},"ports":[{"port":80,"targetPort":8080}]}}`

// cutOften pulls a node's plug ten times, has its Pods and Services change each time, and puts it in again. Whatever the node has
// missed it makes up for, and nothing is left of what was before.
func cutOften(w *world) {
	machines := []*machine{w.server, w.second, w.third}
	var before []string
	for _, m := range machines {
		words, err := m.has()
		must(w.T, err)
		before = append(before, words)
	}
	file := filepath.Join(w.TempDir(), "blink.json")
	must(w.T, os.WriteFile(file, []byte(blink), 0o600))
	last := ""
	for i := range 10 {
		name := fmt.Sprintf("blink-%d", i)
		w.third.cut(true)
		if last != "" {
			w.kubectl("delete", "service", "blink")
			w.kubectl("delete", "pod", last, "--wait=false")
		}
		w.kubectl("apply", "-f", file)
		w.create(name, "three", `"blink":"yes"`, "")
		w.third.cut(false)
		w.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=90s")
		if last != "" {
			w.kubectl("wait", "--for=delete", "pod/"+last, "--timeout=90s")
		}
		address := w.kubectl("get", "service", "blink", "-o", "jsonpath={.spec.clusterIP}")
		for _, m := range machines {
			m.answered(address+":80", greeting(name))
		}
		last = name
	}
	w.kubectl("delete", "service", "blink")
	w.kubectl("delete", "pod", last)
	for i, m := range machines {
		m.wantHas(before[i])
	}
	for _, pod := range strings.Fields(w.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")) {
		if strings.HasPrefix(pod, "blink") {
			w.Errorf("Pod %s is left", pod)
		}
	}
}
