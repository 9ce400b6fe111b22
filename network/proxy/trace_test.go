package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

var localAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.96.0.10")}

// trace sends a packet from src to a destination and returns where it may come out, sorted, or what became of it.
func trace(t *testing.T, table *nft.Table, src, dst string) []string {
	t.Helper()
	var out []string
	to := netip.MustParseAddrPort(dst)
	for random := range uint32(64) {
		p := &nettest.Packet{Src: netip.MustParseAddr(src), Dst: to.Addr(), Protocol: unix.IPPROTO_TCP, Port: to.Port(), Orig: to, Random: random,
			Noted: map[string]string{}, Local: localAddrs}
		verdict := p.Walk(t, table, chainPrerouting)
		if verdict != "drop" {
			if v := p.Walk(t, table, chainIncoming); v != "" {
				verdict = v
			}
		}
		if verdict == "accept" {
			verdict = netip.AddrPortFrom(p.Dst, p.Port).String()
			if p.Walk(t, table, chainPostrouting) == "masquerade" {
				verdict += " masq"
			}
		}
		out = append(out, verdict)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func tableOf(svc *corev1.Service, eps ...discoveryv1.Endpoint) *nft.Table {
	s := newState()
	s.set(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, time.Time{}, frontends(svc, []*discoveryv1.EndpointSlice{slice(svc, 8080, eps...)}, here()))
	s.pending()
	return s.table("t", nets())
}

const (
	podHere  = "10.244.0.9"
	podThere = "10.244.1.9"
	nodeHere = "192.0.2.1"
	outside  = "203.0.113.5"
)

func TestTrace(t *testing.T) {
	local, remote := ep("10.244.0.2", testNode, "rs"), ep("10.244.1.2", "n2", "rs")
	full := func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.Ports[0].NodePort = 30080
		svc.Spec.ExternalIPs = []string{"198.51.100.7"}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: nodeHere}}
	}
	localPolicy := func(svc *corev1.Service) {
		full(svc)
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	for _, tc := range []struct {
		name   string
		change func(*corev1.Service)
		eps    []discoveryv1.Endpoint
		src    string
		dst    string
		want   []string
	}{
		{"cluster IP", nil, []discoveryv1.Endpoint{local, remote}, podHere, "10.96.1.1:80", []string{"10.244.0.2:8080", "10.244.1.2:8080"}},
		{"cluster IP from the host", nil, []discoveryv1.Endpoint{local}, nodeHere, "10.96.1.1:80", []string{"10.244.0.2:8080 masq"}},
		{"other port", nil, []discoveryv1.Endpoint{local}, podHere, "10.96.1.1:81", []string{"reject"}},
		{"no such cluster IP", nil, []discoveryv1.Endpoint{local}, podHere, "10.96.1.2:80", []string{"reject"}},
		{"own DNS", nil, nil, podHere, "10.96.0.10:53", []string{""}},
		{"elsewhere", nil, []discoveryv1.Endpoint{local}, podHere, "203.0.113.1:80", []string{""}},
		{"no endpoint", nil, nil, podHere, "10.96.1.1:80", []string{"reject"}},
		{"not ready", nil, []discoveryv1.Endpoint{ep("10.244.0.2", testNode, "")}, podHere, "10.96.1.1:80", []string{"reject"}},
		{"ready before terminating", nil, []discoveryv1.Endpoint{local, ep("10.244.0.3", testNode, "st")}, podHere, "10.96.1.1:80", []string{"10.244.0.2:8080"}},
		{"terminating at last", nil, []discoveryv1.Endpoint{ep("10.244.0.3", testNode, "st"), ep("10.244.0.4", testNode, "t")}, podHere, "10.96.1.1:80", []string{"10.244.0.3:8080"}},
		{"internal policy", func(svc *corev1.Service) {
			svc.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}, []discoveryv1.Endpoint{local, remote}, podHere, "10.96.1.1:80", []string{"10.244.0.2:8080"}},
		{"internal policy, none here", func(svc *corev1.Service) {
			svc.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}, []discoveryv1.Endpoint{remote}, podHere, "10.96.1.1:80", []string{"drop"}},
		{"node port", full, []discoveryv1.Endpoint{local}, outside, nodeHere + ":30080", []string{"10.244.0.2:8080 masq"}},
		{"node port from a Pod", full, []discoveryv1.Endpoint{local}, podHere, nodeHere + ":30080", []string{"10.244.0.2:8080"}},
		{"node port of another machine", full, []discoveryv1.Endpoint{local}, podHere, "192.0.2.9:30080", []string{""}},
		{"external IP", full, []discoveryv1.Endpoint{remote}, outside, "198.51.100.7:80", []string{"10.244.1.2:8080 masq"}},
		{"load balancer", full, []discoveryv1.Endpoint{local}, outside, nodeHere + ":80", []string{"10.244.0.2:8080 masq"}},
		{"node port, no endpoint", full, nil, outside, nodeHere + ":30080", []string{"reject"}},
		{"external policy", localPolicy, []discoveryv1.Endpoint{local, remote}, outside, nodeHere + ":30080", []string{"10.244.0.2:8080"}},
		{"external policy, none here", localPolicy, []discoveryv1.Endpoint{remote}, outside, nodeHere + ":30080", []string{"drop"}},
		{"external policy from a Pod", localPolicy, []discoveryv1.Endpoint{remote}, podHere, nodeHere + ":30080", []string{"10.244.1.2:8080"}},
		{"external policy from the host", localPolicy, []discoveryv1.Endpoint{remote}, nodeHere, nodeHere + ":30080", []string{"10.244.1.2:8080 masq"}},
		{"external policy, load balancer from a Pod", localPolicy, []discoveryv1.Endpoint{remote}, podHere, nodeHere + ":80", []string{"10.244.1.2:8080"}},
		{"external policy, load balancer from the host", localPolicy, []discoveryv1.Endpoint{remote}, nodeHere, nodeHere + ":80", []string{"10.244.1.2:8080 masq"}},
		{"external policy, external IP from a Pod", localPolicy, []discoveryv1.Endpoint{remote}, podHere, "198.51.100.7:80", []string{"10.244.1.2:8080"}},
		{"external policy, external IP from the host", localPolicy, []discoveryv1.Endpoint{remote}, nodeHere, "198.51.100.7:80", []string{"10.244.1.2:8080 masq"}},
		{"external policy, external IP, none here", localPolicy, []discoveryv1.Endpoint{remote}, outside, "198.51.100.7:80", []string{"drop"}},
		{"external policy, only ending ones here", localPolicy, []discoveryv1.Endpoint{ep("10.244.0.2", testNode, "st"), remote}, outside, nodeHere + ":80", []string{"10.244.0.2:8080"}},
		{"source ranges", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}, []discoveryv1.Endpoint{local}, outside, nodeHere + ":80", []string{"drop"}},
		{"within source ranges", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24"}
		}, []discoveryv1.Endpoint{local}, outside, nodeHere + ":80", []string{"10.244.0.2:8080 masq"}},
		{"source ranges and a Pod here", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}, []discoveryv1.Endpoint{local}, podHere, nodeHere + ":80", []string{"drop"}},
		{"source ranges and this host", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}, []discoveryv1.Endpoint{local}, nodeHere, nodeHere + ":80", []string{"drop"}},
		{"source ranges with a Pod's address", func(svc *corev1.Service) {
			localPolicy(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{podHere + "/32"}
		}, []discoveryv1.Endpoint{remote}, podHere, nodeHere + ":80", []string{"10.244.1.2:8080"}},
		{"source ranges with this host", func(svc *corev1.Service) {
			localPolicy(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		}, []discoveryv1.Endpoint{remote}, nodeHere, nodeHere + ":80", []string{"10.244.1.2:8080 masq"}},
		{"source ranges do not count at node ports", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}, []discoveryv1.Endpoint{local}, outside, nodeHere + ":30080", []string{"10.244.0.2:8080 masq"}},
		{"reserved port", func(svc *corev1.Service) {
			full(svc)
			svc.Spec.Ports[0].Port = 6443
		}, []discoveryv1.Endpoint{local}, outside, nodeHere + ":6443", []string{""}},
		{"headless", func(svc *corev1.Service) {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "None", []string{"None"}
		}, []discoveryv1.Endpoint{local}, podHere, "10.96.1.1:80", []string{"reject"}},
	} {
		if got := trace(t, tableOf(service("a", "10.96.1.1", tc.change), tc.eps...), tc.src, tc.dst); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %s to %s comes to %q, want %q", tc.name, tc.src, tc.dst, got, tc.want)
		}
	}
}

// A client keeps its endpoint, and gets another when that is gone.
func TestTraceAffinity(t *testing.T) {
	svc := service("a", "10.96.1.1", func(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	a, b := ep("10.244.0.2", testNode, "rs"), ep("10.244.0.3", testNode, "rs")
	both, one := tableOf(svc, a, b), tableOf(svc, b)
	known := map[string]string{}
	ask := func(table *nft.Table, random uint32) string {
		p := &nettest.Packet{Src: netip.MustParseAddr(podHere), Dst: netip.MustParseAddr("10.96.1.1"), Protocol: unix.IPPROTO_TCP, Port: 80, Random: random, Noted: known, Local: localAddrs}
		p.Walk(t, table, chainPrerouting)
		return p.Dst.String()
	}
	for _, step := range []struct {
		table  *nft.Table
		random uint32
		want   string
	}{{both, 0, "10.244.0.2"}, {both, 1, "10.244.0.2"}, {one, 0, "10.244.0.3"}, {both, 0, "10.244.0.3"}} {
		if got := ask(step.table, step.random); got != step.want {
			t.Errorf("sent to %s, want %s", got, step.want)
		}
	}
}

// A packet that looks at "entry" before a transaction and at "ends" after it finds an endpoint all the same.
func TestTraceDuringChange(t *testing.T) {
	a, b, c := ep("10.244.0.2", testNode, "rs"), ep("10.244.0.3", testNode, "rs"), ep("10.244.0.4", testNode, "rs")
	svc := service("a", "10.96.1.1", nil)
	before, after := tableOf(svc, a, b, c), tableOf(svc, c)
	front := Frontend{netip.MustParseAddr("10.96.1.1"), unix.IPPROTO_TCP, 80}
	chain := ""
	for _, s := range before.Sets {
		if s.Name == "entry4" {
			chain = s.Elements[string(front.key())].Chain
		}
	}
	for random := range uint32(3) {
		p := &nettest.Packet{Src: netip.MustParseAddr(podHere), Dst: front.Addr, Protocol: front.Protocol, Port: front.Port, Random: random, Local: localAddrs}
		if p.Walk(t, after, chain); p.Dst.String() != "10.244.0.4" {
			t.Errorf("number %d of what was three is sent to %s", random, p.Dst)
		}
	}
}
