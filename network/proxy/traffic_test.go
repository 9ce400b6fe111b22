package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network/nettest"
)

// external is a Service that answers everywhere: on its cluster IPs, node ports and addresses of its own.
func external(spec *corev1.ServiceSpec) {
	spec.Type = corev1.ServiceTypeNodePort
	spec.ExternalIPs = []string{"198.51.100.7", "2001:db8:7::7"}
}

func port(number int32) string { return strconv.Itoa(int(number)) }

// Whoever may ask a Service gets an answer, at each of its addresses, and who it must be seen as is seen as that.
func TestWaysToAService(t *testing.T) {
	m := newMachine(t)
	a, client := m.Pod("a"), m.Pod("client")
	svc := m.service("a", external)
	m.endpoints(svc, at(a, self))
	tcp, udp := port(svc.Spec.Ports[0].NodePort), port(svc.Spec.Ports[1].NodePort)
	if tcp == "0" || udp == "0" {
		t.Fatalf("the Service has the node ports %s and %s", tcp, udp)
	}
	m.answers(nil, "tcp", net.JoinHostPort(svc.Spec.ClusterIPs[1], "80"), "a")
	m.answers(nil, "udp", net.JoinHostPort(svc.Spec.ClusterIPs[1], "80"), "a")
	nettest.Must(t, m.World.Do(func() error { return routeVia("198.51.100.0/24", "2001:db8:7::/64") }))
	for _, f := range []struct{ cluster, host, external, loopback, client, own, gateway string }{
		{svc.Spec.ClusterIPs[0], host4, "198.51.100.7", "127.0.0.1", client.V4, a.V4, gateway4},
		{svc.Spec.ClusterIPs[1], host6, "2001:db8:7::7", "", client.V6, a.V6, gateway6},
	} {
		for _, proto := range []string{"tcp", "udp"} {
			node := map[string]string{"tcp": tcp, "udp": udp}[proto]
			// A Pod is seen as itself; itself sees it as the node, or it would answer itself past the translation.
			nettest.WantFrom(t, "Pod to cluster IP", client.Namespace, proto, net.JoinHostPort(f.cluster, "80"), f.client)
			nettest.WantFrom(t, "Pod to node port", client.Namespace, proto, net.JoinHostPort(f.host, node), f.client)
			nettest.WantFrom(t, "Pod to external address", client.Namespace, proto, net.JoinHostPort(f.external, "80"), f.client)
			nettest.WantFrom(t, "Pod to itself by cluster IP", a.Namespace, proto, net.JoinHostPort(f.cluster, "80"), f.gateway)
			nettest.WantFrom(t, "Pod to itself by node port", a.Namespace, proto, net.JoinHostPort(f.host, node), f.gateway)
			nettest.WantFrom(t, "host to cluster IP", nil, proto, net.JoinHostPort(f.cluster, "80"), f.gateway)
			nettest.WantFrom(t, "host to node port", nil, proto, net.JoinHostPort(f.host, node), f.gateway)
			nettest.WantFrom(t, "world to node port", m.World, proto, net.JoinHostPort(f.host, node), f.gateway)
			nettest.WantFrom(t, "world to external address", m.World, proto, net.JoinHostPort(f.external, "80"), f.gateway)
			if f.loopback != "" {
				nettest.WantFrom(t, "host to node port on loopback", nil, proto, net.JoinHostPort(f.loopback, node), f.gateway)
			}
		}
		for _, ns := range []*nettest.Namespace{nil, client.Namespace} {
			if got, err := nettest.Ask(ns, "tcp", net.JoinHostPort(f.cluster, "81")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a port that the Service does not have: %v, %v", got, err)
			}
		}
	}
	// IPv6 has no route_localnet; the port is refused rather than silent.
	if got, err := nettest.AskWithin(nil, "tcp", "[::1]:"+tcp, 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("host to node port on ::1: %v, %v", got, err)
	}
}

// Pods on the host's network are reached, and reach, as all others.
func TestHostNetworkPods(t *testing.T) {
	m := newMachine(t)
	client := m.Pod("client")
	nettest.ListenAs(t, nil, "tcp", ":8080", "host")
	nettest.ListenAs(t, m.World, "tcp", ":8080", "world")
	svc := m.service("host", external)
	for _, tc := range []struct {
		by           string
		end          end
		fromPod      string
		fromOwnWorld string
	}{
		{"host", end{host4, host6, self, true}, client.V4, world4},
		// Another node on the wire sees a Pod here as this node: that leaves the Pod network.
		{"world", end{world4, world6, elsewhere, true}, host4, host4},
	} {
		m.endpoints(svc, tc.end)
		node := port(svc.Spec.Ports[0].NodePort)
		for _, address := range []string{svc.Spec.ClusterIPs[0] + ":80", host4 + ":" + node} {
			m.answers(nil, "tcp", address, tc.by)
		}
		loopback := "127.0.0.1:" + node
		if tc.end.node == self {
			m.answers(nil, "tcp", loopback, tc.by)
		} else { // From there only Pods' interfaces are reached, not the wire.
			m.Rules.Until(loopback+" is refused", func() error { return refused(nettest.Ask(nil, "tcp", loopback)) })
		}
		m.answers(nil, "tcp", net.JoinHostPort(svc.Spec.ClusterIPs[1], "80"), tc.by)
		nettest.WantFrom(t, "Pod to "+tc.by, client.Namespace, "tcp", svc.Spec.ClusterIP+":80", tc.fromPod)
		nettest.WantFrom(t, "world to "+tc.by, m.World, "tcp", host4+":"+node, "")
	}
}

// refused is nil if that was the answer.
func refused(a nettest.Answer, err error) error {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the answer is %+v, %w", a, err)
	}
	return nil
}

// A node port on loopback leads to those endpoints only that can be reached from there.
func TestNodePortOnLoopback(t *testing.T) {
	m := newMachine(t)
	a := m.Pod("a")
	nettest.ListenAs(t, m.World, "tcp", ":8080", "world")
	svc := m.service("mixed", external)
	node := port(svc.Spec.Ports[0].NodePort)
	m.endpoints(svc, at(a, self), end{world4, world6, elsewhere, true})
	m.Rules.Until("both answer at the node's address", func() error {
		got := map[string]bool{}
		for range 40 {
			a, err := nettest.Ask(nil, "tcp", host4+":"+node)
			if err != nil {
				return err
			}
			got[a.By] = true
		}
		if len(got) != 2 {
			return fmt.Errorf("the answers are of %v", got)
		}
		return nil
	})
	for range 40 {
		if got, err := nettest.Ask(nil, "tcp", "127.0.0.1:"+node); err != nil || got.By != "a" {
			t.Fatalf("%+v answers on loopback, %v", got, err)
		}
	}
	// And back.
	m.endpoints(svc, end{world4, world6, elsewhere, true})
	m.Rules.Until("loopback is refused", func() error { return refused(nettest.Ask(nil, "tcp", "127.0.0.1:"+node)) })
	m.endpoints(svc, at(a, self))
	m.answers(nil, "tcp", "127.0.0.1:"+node, "a")
	m.answers(nil, "udp", "127.0.0.1:"+port(svc.Spec.Ports[1].NodePort), "a")
}

// A Service's connections go to the endpoints that there are; without any they are refused at once.
func TestEndpointsComeAndGo(t *testing.T) {
	m := newMachine(t)
	a, b, client := m.Pod("a"), m.Pod("b"), m.Pod("client")
	svc := m.service("web", external)
	node := port(svc.Spec.Ports[0].NodePort)
	m.endpoints(svc, at(a, self), at(b, self))
	both := []string{net.JoinHostPort(svc.Spec.ClusterIPs[0], "80"), net.JoinHostPort(svc.Spec.ClusterIPs[1], "80")}
	for _, address := range both {
		seen := map[string]bool{}
		m.Rules.Until("both answer at "+address, func() error {
			for range 50 {
				got, err := nettest.Ask(client.Namespace, "tcp", address)
				if err != nil {
					return err
				}
				if seen[got.By] = true; len(seen) == 2 {
					return nil
				}
			}
			return fmt.Errorf("only %v answer", seen)
		})
	}
	gone := at(a, self)
	gone.ready = false
	m.endpoints(svc, gone, at(b, self))
	for _, address := range both {
		m.Rules.Until("only b answers at "+address, func() error { return onlyFrom(client.Namespace, address, "b") })
	}
	m.endpoints(svc)
	for ns, addresses := range map[*nettest.Namespace][]string{
		client.Namespace: append([]string{host4 + ":" + node}, both...), nil: append([]string{"127.0.0.1:" + node}, both...), m.World: {host4 + ":" + node},
	} {
		for _, address := range addresses {
			m.Rules.Until(fmt.Sprint("refused at ", address, " from ", ns), func() error {
				got, err := nettest.Ask(ns, "tcp", address)
				if !errors.Is(err, syscall.ECONNREFUSED) {
					return fmt.Errorf("%v answers, %w", got, err)
				}
				return nil
			})
		}
	}
	m.endpoints(svc, at(b, self))
	m.answers(client.Namespace, "tcp", both[0], "b")
	nettest.Must(t, m.API.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	m.Rules.Until("the node port is closed", func() error {
		if got, err := nettest.Ask(m.World, "tcp", host4+":"+node); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%v answers, %w", got, err)
		}
		return nil
	})
}

// What is labelled as the endpoints of a headless Service is for DNS alone, while it is, even if its Service has an address.
func TestSlicesOfHeadlessServices(t *testing.T) {
	m := newMachine(t)
	a, client := m.Pod("a"), m.Pod("client")
	svc := m.service("web", nil)
	address := net.JoinHostPort(svc.Spec.ClusterIPs[0], "80")
	m.endpoints(svc, at(a, self))
	m.answers(client.Namespace, "tcp", address, "a")
	label := func(value string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, corev1.IsHeadlessService, value)
		_, err := m.API.DiscoveryV1().EndpointSlices("default").Patch(t.Context(), "web-4", types.MergePatchType, patch, metav1.PatchOptions{})
		nettest.Must(t, err)
	}
	label(`""`)
	m.Rules.Until("refused at "+address, func() error {
		if got, err := nettest.Ask(client.Namespace, "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%v answers, %w", got, err)
		}
		return nil
	})
	label("null")
	m.answers(client.Namespace, "tcp", address, "a")
}

// onlyFrom asks often enough that another endpoint, if there were one, would have answered.
func onlyFrom(ns *nettest.Namespace, address, by string) error {
	for range 30 {
		got, err := nettest.Ask(ns, "tcp", address)
		if err != nil {
			return err
		}
		if got.By != by {
			return fmt.Errorf("%s answers", got.By)
		}
	}
	return nil
}

// A policy of Local keeps to this node, shows the client's address, and is silent where there is no endpoint here. Clients on
// the node are served from everywhere all the same.
func TestExternalTrafficPolicyLocal(t *testing.T) {
	m := newMachine(t)
	a, b, client := m.Pod("a"), m.Pod("b"), m.Pod("client")
	svc := m.service("web", func(spec *corev1.ServiceSpec) {
		external(spec)
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	node := port(svc.Spec.Ports[0].NodePort)
	m.endpoints(svc, at(a, self), at(b, elsewhere))
	for _, ip := range []string{host4, host6} {
		m.Rules.Until("a alone answers the world", func() error { return onlyFrom(m.World, net.JoinHostPort(ip, node), "a") })
	}
	nettest.WantFrom(t, "world", m.World, "tcp", host4+":"+node, world4)
	nettest.WantFrom(t, "world", m.World, "tcp", net.JoinHostPort(host6, node), world6)

	m.endpoints(svc, at(b, elsewhere))
	m.Rules.Until("b answers clients here", func() error { return onlyFrom(client.Namespace, host4+":"+node, "b") })
	m.answers(nil, "tcp", "127.0.0.1:"+node, "b")
	m.answers(nil, "tcp", host4+":"+node, "b")
	m.answers(client.Namespace, "tcp", svc.Spec.ClusterIP+":80", "b")
	// The host's own address may be none that another node can answer over the Pod network.
	nettest.WantFrom(t, "host", nil, "tcp", host4+":"+node, gateway4)
	nettest.WantFrom(t, "host", nil, "tcp", net.JoinHostPort(host6, node), gateway6)
	nettest.WantFrom(t, "Pod", client.Namespace, "tcp", host4+":"+node, client.V4)
	if got, err := nettest.AskWithin(m.World, "tcp", host4+":"+node, time.Second); !os.IsTimeout(err) {
		t.Errorf("the world's packets are not dropped: %v, %v", got, err)
	}
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	m := newMachine(t)
	a, b, client := m.Pod("a"), m.Pod("b"), m.Pod("client")
	svc := m.service("web", func(spec *corev1.ServiceSpec) {
		external(spec)
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	cluster, node := svc.Spec.ClusterIP+":80", host4+":"+port(svc.Spec.Ports[0].NodePort)
	m.endpoints(svc, at(a, self), at(b, elsewhere))
	m.Rules.Until("a alone answers", func() error { return onlyFrom(client.Namespace, cluster, "a") })
	m.endpoints(svc, at(b, elsewhere))
	m.answers(m.World, "tcp", node, "b") // That policy is another.
	m.Rules.Until("silence", func() error {
		if got, err := nettest.AskWithin(client.Namespace, "tcp", cluster, time.Second); !os.IsTimeout(err) {
			return fmt.Errorf("the Pod's packets are not dropped: %v, %w", got, err)
		}
		return nil
	})
	m.endpoints(svc)
	m.Rules.Until("refusal", func() error {
		if got, err := nettest.Ask(client.Namespace, "tcp", cluster); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%v answers, %w", got, err)
		}
		return nil
	})
}

// A load balancer's address answers those whom its ranges admit, Pods and the machine itself like others.
func TestLoadBalancer(t *testing.T) {
	m := newMachine(t)
	a, b := m.Pod("a"), m.Pod("b")
	clients := []struct {
		name string
		ns   *nettest.Namespace
	}{{"elsewhere", m.World}, {"a Pod", b.Namespace}, {"this machine", nil}}
	for name, tc := range map[string]struct {
		ranges   []string
		admitted string
	}{
		"open":           {nil, "elsewhere, a Pod, this machine"},
		"one elsewhere":  {[]string{"192.0.2.2/32"}, "elsewhere"},
		"a Pod":          {[]string{b.V4 + "/32"}, "a Pod"},
		"this machine":   {[]string{host4 + "/32"}, "this machine"},
		"nobody of them": {[]string{"203.0.113.0/24"}, ""},
	} {
		svc := m.service("web", func(spec *corev1.ServiceSpec) {
			spec.Type = corev1.ServiceTypeLoadBalancer
			spec.LoadBalancerSourceRanges = tc.ranges
		})
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: host4}}
		_, err := m.API.CoreV1().Services("default").UpdateStatus(t.Context(), svc, metav1.UpdateOptions{})
		nettest.Must(t, err)
		m.endpoints(svc, at(a, self))
		for _, client := range clients {
			if strings.Contains(tc.admitted, client.name) {
				m.answers(client.ns, "tcp", host4+":80", "a")
				continue
			}
			m.Rules.Until(fmt.Sprintf("%s: silence for %s", name, client.name), func() error {
				if got, err := nettest.AskWithin(client.ns, "tcp", host4+":80", time.Second); !os.IsTimeout(err) {
					return fmt.Errorf("%v answers, %w", got, err)
				}
				return nil
			})
		}
		if tc.ranges == nil {
			nettest.WantFrom(t, name, m.World, "tcp", host4+":80", gateway4)
		}
		nettest.Must(t, m.API.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
		m.Rules.Until("nothing is left", func() error {
			if got, err := nettest.Ask(nil, "tcp", host4+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("%v answers, %w", got, err)
			}
			return nil
		})
	}
}
