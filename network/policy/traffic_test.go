package policy_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
	"github.com/peapod/peapod/network/policy"
)

const (
	table = "peapod_test_policies"
	self  = "here"
	space = "default"
)

var podNets = []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:3::/64")}

// machine is a node with Pods, an API server that has them, and an Enforcer.
type machine struct {
	*testing.T
	api   kubernetes.Interface
	world *nettest.Namespace
	net   *network.Network
	rules *nettest.Rules

	enforcer *policy.Enforcer
	stop     func() // ends the enforcer and leaves its rules
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, world: nettest.NewWorld(t), rules: nettest.FollowRules(t), api: servertest.Start(t, nil).Client(t)}
	var err error
	m.net, err = network.New(network.Config{NodeCIDRs: podNets, DataDir: t.TempDir(), Instance: t.Name()})
	nettest.Must(t, err)
	nettest.Must(t, m.net.Open(t.Context()))
	t.Cleanup(func() { nettest.Must(t, m.net.Uninstall(context.Background())) })
	t.Cleanup(func() { nettest.Must(t, policy.Uninstall(table)) })
	m.start()
	t.Cleanup(func() { m.stop() })
	return m
}

// start runs an Enforcer, as a new process would.
func (m *machine) start() {
	m.Helper()
	factory := informers.NewSharedInformerFactory(m.api, 0)
	var err error
	m.enforcer, err = policy.New(policy.Config{Table: table, NodeName: self, Pods: podNets, Informers: factory, Cluster: policy.Own(m.api)})
	nettest.Must(m, err)
	ctx, cancel := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- m.enforcer.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.Errorf("the enforcer ended with: %v", err)
		}
		factory.Shutdown()
	})
}

// pod is a Pod that answers with its name on port 8080.
type pod struct {
	*nettest.Namespace
	object *corev1.Pod
	addrs  []string
}

// pod makes a Pod as the kubelet does: the network gives it addresses, the enforcer is told of them, then it starts. The API is not told
// of the addresses.
func (m *machine) pod(name string) *pod {
	m.Helper()
	p := m.connected(name)
	nettest.Must(m, m.enforcer.Admit(m.Context(), p.object, p.addrs))
	return p
}

// connected is a Pod with addresses that nobody was told of.
func (m *machine) connected(name string) *pod {
	m.Helper()
	p := &pod{Namespace: nettest.NewNamespace(m.T)}
	var err error
	p.object, err = m.api.CoreV1().Pods(space).Create(m.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: self, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	nettest.Must(m, err)
	addresses, err := m.net.Setup(m.Context(), name, p.Path, nil)
	nettest.Must(m, err)
	for _, a := range addresses {
		p.addrs = append(p.addrs, a.String())
	}
	nettest.ListenAs(m.T, p.Namespace, "tcp", ":8080", name)
	nettest.ListenAs(m.T, p.Namespace, "udp", ":8080", name)
	return p
}

// at are where the Pod answers, in both families.
func (p *pod) at() []string {
	return []string{net.JoinHostPort(p.addrs[0], "8080"), net.JoinHostPort(p.addrs[1], "8080")}
}

// policy makes a policy for the Pods called app; all if that is empty.
func (m *machine) policy(name, app string, spec networkingv1.NetworkPolicySpec) {
	m.Helper()
	if app != "" {
		spec.PodSelector.MatchLabels = map[string]string{"app": app}
	}
	_, err := m.api.NetworkingV1().NetworkPolicies(space).Create(m.Context(),
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	nettest.Must(m, err)
}

// patience is how long clients wait for an answer that must not come.
const patience = 300 * time.Millisecond

// silent is nil if nobody answers at any of the addresses.
func silent(ns *nettest.Namespace, addresses []string) error {
	for _, address := range addresses {
		for _, proto := range []string{"tcp", "udp"} {
			if a, err := nettest.AskWithin(ns, proto, address, patience); err == nil {
				return fmt.Errorf("%s %s is answered by %s", proto, address, a.By)
			}
		}
	}
	return nil
}

// answer is nil if somebody answers at each of the addresses.
func answer(ns *nettest.Namespace, addresses []string) error {
	for _, address := range addresses {
		for _, proto := range []string{"tcp", "udp"} {
			if _, err := nettest.AskWithin(ns, proto, address, 20*time.Second); err != nil {
				return fmt.Errorf("%s %s: %w", proto, address, err)
			}
		}
	}
	return nil
}

// until waits for the rules to be such that the probe succeeds.
func (m *machine) until(what string, probe func(*nettest.Namespace, []string) error, from *nettest.Namespace, to *pod) {
	m.Helper()
	m.rules.Until(what, func() error { return probe(from, to.at()) })
}

func (m *machine) tables() []string {
	m.Helper()
	names, err := nft.Names(table)
	nettest.Must(m, err)
	return names
}

var isolated = networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}}

func from(app string) networkingv1.NetworkPolicySpec {
	port := intstr.FromInt32(8080)
	udp := corev1.ProtocolUDP
	return networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}, {Port: &port, Protocol: &udp}},
	}}}
}

// A policy holds for packets of both families and protocols, between Pods and for the world, and for nobody on the node. What it
// allows later passes, and with the last policy the table goes.
func TestPolicy(t *testing.T) {
	m := newMachine(t)
	web, client, other := m.pod("web"), m.pod("client"), m.pod("other")
	nettest.Must(t, answer(client.Namespace, web.at()))
	if got := m.tables(); len(got) > 0 {
		t.Errorf("without a policy there is table %v", got)
	}
	begun := nettest.Dial(t, client.Namespace, "tcp", web.at()[0])
	m.policy("deny", "web", isolated)
	m.until("nobody reaches web", silent, client.Namespace, web)
	nettest.Must(t, silent(m.world, []string{web.at()[0]})) // the world has no route in IPv4 either way
	nettest.Must(t, silent(web.Namespace, client.at()))
	nettest.Must(t, answer(nil, web.at()))           // the node to its Pods: probes
	nettest.Must(t, answer(web.Namespace, web.at())) // a Pod to itself
	nettest.Must(t, answer(client.Namespace, other.at()))
	nettest.ListenAs(t, nil, "tcp", "10.244.3.1:7070", "node")
	if _, err := nettest.Ask(web.Namespace, "tcp", "10.244.3.1:7070"); err != nil {
		t.Errorf("an isolated Pod does not reach its node: %v", err)
	}
	if _, err := begun.Ask(20 * time.Second); err != nil {
		t.Errorf("a connection from before the policy ended: %v", err)
	}
	m.policy("allow", "web", from("client"))
	m.until("client reaches web", answer, client.Namespace, web)
	nettest.Must(t, silent(other.Namespace, web.at()))
	for _, name := range []string{"deny", "allow"} {
		nettest.Must(t, m.api.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	m.rules.Until("the table goes", func() error {
		if got := m.tables(); len(got) > 0 {
			return fmt.Errorf("there is table %v", got)
		}
		return nil
	})
	nettest.Must(t, answer(other.Namespace, web.at()))
}

// Admit returns when a new Pod is held to what selects it, although the API does not know its address, and when it is known as a peer.
// When its addresses are given back, nothing of it is left.
func TestAdmit(t *testing.T) {
	m := newMachine(t)
	client := m.pod("client")
	m.policy("deny", "web", isolated)
	m.policy("allow", "db", from("web"))
	for range 3 {
		web := m.pod("web")
		if err := errorsOf(silent(client.Namespace, web.at()), silent(web.Namespace, client.at())); err != nil {
			t.Fatalf("right after its admission: %v", err)
		}
		nettest.Must(t, m.net.Teardown(t.Context(), "web"))
		m.enforcer.Release(space, "web", web.object.UID)
		nettest.Must(t, m.api.CoreV1().Pods(space).Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
		m.rules.Until("nothing of the Pod is left", func() error {
			if got := m.tables(); len(got) > 0 {
				return fmt.Errorf("there is table %v", got)
			}
			return nil
		})
		web.Remove()
	}
	db, web := m.pod("db"), m.pod("web")
	nettest.Must(t, silent(client.Namespace, db.at()))
	// It is a peer of db as soon as it is admitted; its own isolation, which keeps it from there, goes.
	nettest.Must(t, m.api.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), "deny", metav1.DeleteOptions{}))
	m.until("web reaches db", answer, web.Namespace, db)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late := m.connected("late")
	if err := m.enforcer.Admit(ctx, late.object, late.addrs); err == nil {
		t.Error("an admission that was given up says that rules are in place")
	}
	if err := m.enforcer.Admit(t.Context(), late.object, []string{"nowhere"}); err == nil {
		t.Error("a Pod with an address that is none was admitted")
	}
}

func errorsOf(all ...error) error {
	if i := slices.IndexFunc(all, func(err error) bool { return err != nil }); i >= 0 {
		return all[i]
	}
	return nil
}

// While nobody enforces, the rules stand; who comes next takes them over from what the API says, without letting anything through or
// cutting what is allowed.
func TestRestart(t *testing.T) {
	m := newMachine(t)
	web, client, other := m.pod("web"), m.pod("client"), m.pod("other")
	m.policy("allow", "web", from("client"))
	m.until("other is kept out", silent, other.Namespace, web)
	begun := nettest.Dial(t, client.Namespace, "tcp", web.at()[1])
	for _, p := range []*pod{web, client, other} {
		p.object.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: p.addrs[0]}, {IP: p.addrs[1]}}, PodIP: p.addrs[0]}
		var err error
		p.object, err = m.api.CoreV1().Pods(space).UpdateStatus(t.Context(), p.object, metav1.UpdateOptions{})
		nettest.Must(t, err)
	}
	m.stop()
	nettest.Must(t, silent(other.Namespace, web.at()))
	nettest.Must(t, answer(client.Namespace, web.at()))
	m.start()
	extra := m.pod("extra") // by then the rules are those of the new one
	nettest.Must(t, silent(extra.Namespace, web.at()))
	nettest.Must(t, silent(other.Namespace, web.at()))
	nettest.Must(t, answer(client.Namespace, web.at()))
	if _, err := begun.Ask(20 * time.Second); err != nil {
		t.Errorf("a connection did not outlive the restart: %v", err)
	}
	// What was removed while nobody looked is noticed at the next start.
	m.stop()
	nettest.Must(t, m.api.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), "allow", metav1.DeleteOptions{}))
	m.start()
	m.rules.Until("the table goes", func() error {
		if got := m.tables(); len(got) > 0 {
			return fmt.Errorf("there is table %v", got)
		}
		return nil
	})
	nettest.Must(t, answer(other.Namespace, web.at()))
}

// Somebody who removes the table is noticed at the next change, and the whole comes back.
func TestTableOfOthers(t *testing.T) {
	m := newMachine(t)
	web, client := m.pod("web"), m.pod("client")
	m.policy("deny", "web", isolated)
	m.until("nobody reaches web", silent, client.Namespace, web)
	nettest.Must(t, policy.Uninstall(table))
	nettest.Must(t, answer(client.Namespace, web.at()))
	m.policy("more", "client", isolated)
	m.until("nobody reaches web again", silent, client.Namespace, web)
	m.until("nobody reaches client", silent, web.Namespace, client)
}
