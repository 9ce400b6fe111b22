package proxy_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network/nettest"
)

// routeVia leads to networks over the host.
func routeVia(networks ...string) error {
	for _, n := range networks {
		dst, err := netlink.ParseIPNet(n)
		if err != nil {
			return err
		}
		gw := net.ParseIP(host4)
		if dst.IP.To4() == nil {
			gw = net.ParseIP(host6)
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gw}); err != nil {
			return err
		}
	}
	return nil
}

// Connections that are established stay, whatever becomes of the rules.
func TestEstablishedConnectionsStay(t *testing.T) {
	m := newMachine(t)
	a, b, client := m.Pod("a"), m.Pod("b"), m.Pod("client")
	svc := m.service("web", external)
	node := port(svc.Spec.Ports[0].NodePort)
	m.endpoints(svc, at(a, self))
	m.answers(nil, "tcp", svc.Spec.ClusterIP+":80", "a")
	open := map[string]*nettest.Client{
		"Pod": nettest.Dial(t, client.Namespace, "tcp", svc.Spec.ClusterIP+":80"), "host": nettest.Dial(t, nil, "tcp", svc.Spec.ClusterIP+":80"),
		"world": nettest.Dial(t, m.World, "tcp", host4+":"+node), "itself": nettest.Dial(t, a.Namespace, "tcp", svc.Spec.ClusterIP+":80"),
	}
	talk := func(when string) {
		t.Helper()
		for who, c := range open {
			if got, err := c.Ask(30 * time.Second); err != nil || got.By != "a" {
				t.Errorf("%s, the connection of %s is answered by %v: %v", when, who, got, err)
			}
		}
	}
	talk("at first")
	m.endpoints(svc, at(b, self))
	m.answers(client.Namespace, "tcp", svc.Spec.ClusterIP+":80", "b")
	talk("after the endpoint has gone from the Service")
	m.endpoints(svc)
	m.Rules.Until("refusal", func() error {
		if _, err := nettest.Ask(client.Namespace, "tcp", svc.Spec.ClusterIP+":80"); err == nil {
			return errors.New("somebody answers")
		}
		return nil
	})
	talk("without any endpoint")
	// A Service of so many endpoints needs chains that the table does not have.
	many := m.service("many", nil)
	ends := []end{at(b, self)}
	for i := range 40 {
		ends = append(ends, end{fmt.Sprintf("10.244.9.%d", i+1), fmt.Sprintf("fd00:244:9::%d", i+1), elsewhere, true})
	}
	m.endpoints(many, ends...)
	m.Rules.Until("the table has grown", func() error {
		if n := m.elements()["ends4"]; n < 2*len(ends) {
			return fmt.Errorf("%d endpoints", n)
		}
		return nil
	})
	talk("after the table has grown")
	m.Stop()
	m.start() // It replaces the whole table.
	m.endpoints(svc, at(b, self))
	m.answers(client.Namespace, "tcp", svc.Spec.ClusterIP+":80", "b")
	talk("after another process has taken over")
	nettest.Must(t, m.API.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	m.Rules.Until("refusal", func() error {
		if _, err := nettest.Ask(client.Namespace, "tcp", svc.Spec.ClusterIP+":80"); err == nil {
			return errors.New("somebody answers")
		}
		return nil
	})
	talk("without the Service")
}

// A UDP client that keeps its port, and never pauses, is answered by who is there now.
func TestUDPClientsMoveOn(t *testing.T) {
	m := newMachine(t)
	a, b, client := m.Pod("a"), m.Pod("b"), m.Pod("client")
	svc := m.service("web", external)
	node := port(svc.Spec.Ports[1].NodePort)
	m.endpoints(svc, at(a, self))
	m.answers(nil, "udp", svc.Spec.ClusterIP+":80", "a")
	open := map[string]*nettest.Client{
		"Pod": nettest.Dial(t, client.Namespace, "udp", svc.Spec.ClusterIP+":80"), "host": nettest.Dial(t, nil, "udp", svc.Spec.ClusterIP+":80"),
		"Pod by IPv6": nettest.Dial(t, client.Namespace, "udp", net.JoinHostPort(svc.Spec.ClusterIPs[1], "80")),
		"world":       nettest.Dial(t, m.World, "udp", host4+":"+node), "world by IPv6": nettest.Dial(t, m.World, "udp", net.JoinHostPort(host6, node)),
		"external address": nettest.Dial(t, client.Namespace, "udp", "198.51.100.7:80"),
	}
	// As DNS clients do, each sends again when there is no answer. Nobody answers without an endpoint.
	all := func(by string) {
		t.Helper()
		for who, c := range open {
			end := time.Now().Add(time.Minute)
			got, err := c.Ask(time.Second)
			for time.Now().Before(end) && got.By != by {
				got, err = c.Ask(time.Second)
			}
			if got.By != by {
				t.Errorf("%s is answered by %v, want %q: %v", who, got, by, err)
			}
		}
	}
	all("a")
	// The endpoint is gone from the Service, though it would answer.
	m.endpoints(svc, at(b, self))
	all("b")
	m.endpoints(svc)
	m.Rules.Until("refusal", func() error {
		if _, err := nettest.Ask(client.Namespace, "udp", svc.Spec.ClusterIP+":80"); err == nil {
			return errors.New("somebody answers")
		}
		return nil
	})
	all("")
	m.endpoints(svc, at(a, self))
	all("a")
	// What goes on is not disturbed by another endpoint beside it.
	m.endpoints(svc, at(a, self), at(b, self))
	m.Rules.Until("both are there", func() error {
		if n := m.elements()["ends4"]; n < 2*6 {
			return fmt.Errorf("%d endpoints", n)
		}
		return nil
	})
	all("a")
}

// With session affinity a client keeps its endpoint for as long as it is there and the time has not passed since it asked.
func TestSessionAffinity(t *testing.T) {
	m := newMachine(t)
	pods := map[string]*nettest.Pod{}
	var ends []end
	for _, name := range []string{"a", "b", "c"} {
		pods[name] = m.Pod(name)
		ends = append(ends, at(pods[name], self))
	}
	client := m.Pod("client")
	const life = 2
	svc := m.service("web", func(spec *corev1.ServiceSpec) {
		spec.SessionAffinity = corev1.ServiceAffinityClientIP
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](life)}}
	})
	for i, n := range []string{"4", "6"} {
		address := net.JoinHostPort(svc.Spec.ClusterIPs[i], "80")
		m.endpoints(svc, ends...)
		var first nettest.Answer
		m.Rules.Until("somebody answers", func() (err error) {
			if m.elements()["ends"+n] < 2*len(ends) {
				return errors.New("not all endpoints are known")
			}
			first, err = nettest.Ask(client.Namespace, "tcp", address)
			return err
		})
		nettest.Must(t, onlyFrom(client.Namespace, address, first.By))
		// The endpoint goes, and the client gets another and keeps that, though the first comes back.
		var others []end
		for name, p := range pods {
			if name != first.By {
				others = append(others, at(p, self))
			}
		}
		m.endpoints(svc, others...)
		var next nettest.Answer
		m.Rules.Until("another answers", func() (err error) {
			if next, err = nettest.Ask(client.Namespace, "tcp", address); err == nil && next.By == first.By {
				err = errors.New("it is the one that is gone")
			}
			return err
		})
		m.endpoints(svc, ends...)
		m.Rules.Until("all are back", func() error {
			if m.elements()["ends"+n] < 2*len(ends) {
				return errors.New("not all endpoints are known")
			}
			return onlyFrom(client.Namespace, address, next.By)
		})
		m.forgets("affinity"+n, life*time.Second)
	}
}

// forgets waits for as long as the kernel says that it keeps what is in a set, and fails the test if that is longer than it
// should be or something is left then.
func (m *machine) forgets(set string, life time.Duration) {
	m.Helper()
	conn, err := nftables.New()
	nettest.Must(m, err)
	s, err := conn.GetSetByName(&nftables.Table{Name: table, Family: nftables.TableFamilyINet}, set)
	nettest.Must(m, err)
	elements, err := conn.GetSetElements(s)
	nettest.Must(m, err)
	if len(elements) == 0 {
		m.Fatalf("the set %s is empty", set)
	}
	var left time.Duration
	for _, e := range elements {
		if e.Timeout != life {
			m.Errorf("an element of %s lives for %v, want %v", set, e.Timeout, life)
		}
		left = max(left, e.Expires)
	}
	<-time.After(left + 100*time.Millisecond) // The kernel counts in ticks of up to 10 ms.
	if elements, err = conn.GetSetElements(s); err != nil || len(elements) > 0 {
		m.Errorf("%d elements of %s have outlived their time: %v", len(elements), set, err)
	}
}

// Endpoints that come and go while clients ask cost no request as long as they live.
func TestNoRequestIsLostWhileEndpointsFlap(t *testing.T) {
	m := newMachine(t)
	a, b, c, client := m.Pod("a"), m.Pod("b"), m.Pod("c"), m.Pod("client")
	svc := m.service("web", nil)
	m.endpoints(svc, at(c, self))
	address := svc.Spec.ClusterIP + ":80"
	m.answers(client.Namespace, "tcp", address, "c")
	done, all := make(chan struct{}), make(chan struct{})
	askedAll := sync.OnceFunc(func() { close(all) })
	var asking sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got, err := nettest.Ask(client.Namespace, "tcp", address)
				if err != nil {
					t.Errorf("a request is lost: %v", err)
				}
				mu.Lock()
				if seen[got.By]++; len(seen) == 3 {
					askedAll()
				}
				mu.Unlock()
			}
		})
	}
	flap := at(a, self)
	for i := range 100 {
		flap.ready = i%2 == 1
		if i%3 == 0 {
			m.endpoints(svc, at(c, self))
		} else {
			m.endpoints(svc, flap, at(b, self), at(c, self))
		}
	}
	// A proxy that comes late sees only some of these changes: now all three stay.
	m.endpoints(svc, at(a, self), at(b, self), at(c, self))
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Error("not all endpoints were asked")
	}
	close(done)
	asking.Wait()
	t.Log("requests by endpoint:", seen)
}

// Services that come and go leave nothing in the kernel.
func TestServicesLeaveNothing(t *testing.T) {
	m := newMachine(t)
	a := m.Pod("a")
	kept := m.service("kept", external)
	m.endpoints(kept, at(a, self))
	m.answers(nil, "tcp", kept.Spec.ClusterIP+":80", "a")
	m.answers(nil, "tcp", net.JoinHostPort(kept.Spec.ClusterIPs[1], "80"), "a")
	before := m.elements()
	const rounds, batch = 3, 40
	for round := range rounds {
		var names []string
		for i := range batch {
			svc := m.service(fmt.Sprintf("s-%d-%d", round, i), func(spec *corev1.ServiceSpec) {
				if spec.Type = corev1.ServiceTypeNodePort; i%2 == 0 {
					spec.SessionAffinity = corev1.ServiceAffinityClientIP
				}
			})
			m.endpoints(svc, at(a, self))
			names = append(names, svc.Name)
			if i == batch-1 {
				m.answers(nil, "udp", svc.Spec.ClusterIP+":80", "a")
			}
		}
		for _, name := range names {
			nettest.Must(t, m.API.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}))
			for _, family := range []string{"4", "6"} {
				nettest.Must(t, m.API.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), name+"-"+family, metav1.DeleteOptions{}))
			}
		}
	}
	// The chains for affinity stay, of which there are as many as there are different times.
	m.Rules.Until("the rules are as before", func() error {
		now := m.elements()
		if delete(now, "chains"); now["affinity4"] == 0 {
			delete(now, "affinity4")
		}
		was := maps.Clone(before)
		delete(was, "chains")
		delete(was, "affinity4")
		if !maps.Equal(now, was) {
			return fmt.Errorf("there is %v and was %v", now, was)
		}
		return nil
	})
	nettest.WantFrom(t, "what stays", nil, "tcp", kept.Spec.ClusterIP+":80", gateway4)
}
