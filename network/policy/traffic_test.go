package policy_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
	"github.com/peapod/peapod/network/policy"
)

const (
	table = "peapod_test_policies"
	self  = "here"
	space = "default"
)

// machine is a node with Pods, an API server that has them, and an Enforcer.
type machine struct {
	*nettest.Machine
	enforcer *policy.Enforcer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{Machine: nettest.NewMachine(t, servertest.Start(t, nil).Client(t), func() error { return policy.Uninstall(table) })}
	m.start()
	return m
}

// start runs an Enforcer, as a new process would.
func (m *machine) start() {
	m.Helper()
	m.Start(func(factory informers.SharedInformerFactory) (interface{ Run(context.Context) error }, error) {
		var err error
		m.enforcer, err = policy.New(policy.Config{Table: table, NodeName: self, Pods: nettest.PodNets, Informers: factory, Cluster: policy.Own(m.API)})
		return m.enforcer, err
	})
}

// pod is a Pod that the API knows.
type pod struct {
	*nettest.Pod
	object *corev1.Pod
}

// pod makes a Pod as the kubelet does: the network gives it addresses, the enforcer is told of them, then it starts. The API is not told
// of the addresses.
func (m *machine) pod(name string) *pod {
	m.Helper()
	p := m.connected(name)
	nettest.Must(m, m.enforcer.Admit(m.Context(), p.object, p.addresses()))
	return p
}

// connected is a Pod with addresses that nobody was told of.
func (m *machine) connected(name string) *pod {
	m.Helper()
	object, err := m.API.CoreV1().Pods(space).Create(m.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: self, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	nettest.Must(m, err)
	return &pod{m.Pod(name), object}
}

func (p *pod) addresses() []string { return []string{p.V4, p.V6} }

// policy makes a policy for the Pods called app; all if that is empty.
func (m *machine) policy(name, app string, spec networkingv1.NetworkPolicySpec) {
	m.Helper()
	if app != "" {
		spec.PodSelector.MatchLabels = map[string]string{"app": app}
	}
	_, err := m.API.NetworkingV1().NetworkPolicies(space).Create(m.Context(),
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
	m.Rules.Until(what, func() error { return probe(from, to.At()) })
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
	nettest.Must(t, answer(client.Namespace, web.At()))
	if got := m.tables(); len(got) > 0 {
		t.Errorf("without a policy there is table %v", got)
	}
	begun := nettest.Dial(t, client.Namespace, "tcp", web.At()[0])
	m.policy("deny", "web", isolated)
	m.until("nobody reaches web", silent, client.Namespace, web)
	nettest.Must(t, silent(m.World, []string{web.At()[0]})) // the world has no route in IPv4 either way
	nettest.Must(t, silent(web.Namespace, client.At()))
	nettest.Must(t, answer(nil, web.At()))           // the node to its Pods: probes
	nettest.Must(t, answer(web.Namespace, web.At())) // a Pod to itself
	nettest.Must(t, answer(client.Namespace, other.At()))
	nettest.ListenAs(t, nil, "tcp", "10.244.3.1:7070", "node")
	if _, err := nettest.Ask(web.Namespace, "tcp", "10.244.3.1:7070"); err != nil {
		t.Errorf("an isolated Pod does not reach its node: %v", err)
	}
	if _, err := begun.Ask(20 * time.Second); err != nil {
		t.Errorf("a connection from before the policy ended: %v", err)
	}
	m.policy("allow", "web", from("client"))
	m.until("client reaches web", answer, client.Namespace, web)
	nettest.Must(t, silent(other.Namespace, web.At()))
	for _, name := range []string{"deny", "allow"} {
		nettest.Must(t, m.API.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	m.Rules.Until("the table goes", func() error {
		if got := m.tables(); len(got) > 0 {
			return fmt.Errorf("there is table %v", got)
		}
		return nil
	})
	nettest.Must(t, answer(other.Namespace, web.At()))
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
		if err := errorsOf(silent(client.Namespace, web.At()), silent(web.Namespace, client.At())); err != nil {
			t.Fatalf("right after its admission: %v", err)
		}
		nettest.Must(t, m.Net.Teardown(t.Context(), "web"))
		m.enforcer.Release(space, "web", web.object.UID)
		nettest.Must(t, m.API.CoreV1().Pods(space).Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
		m.Rules.Until("nothing of the Pod is left", func() error {
			if got := m.tables(); len(got) > 0 {
				return fmt.Errorf("there is table %v", got)
			}
			return nil
		})
		web.Remove()
	}
	db, web := m.pod("db"), m.pod("web")
	nettest.Must(t, silent(client.Namespace, db.At()))
	// It is a peer of db as soon as it is admitted; its own isolation, which keeps it from there, goes.
	nettest.Must(t, m.API.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), "deny", metav1.DeleteOptions{}))
	m.until("web reaches db", answer, web.Namespace, db)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late := m.connected("late")
	if err := m.enforcer.Admit(ctx, late.object, late.addresses()); err == nil {
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
	begun := nettest.Dial(t, client.Namespace, "tcp", web.At()[1])
	for _, p := range []*pod{web, client, other} {
		p.object.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: p.V4}, {IP: p.V6}}, PodIP: p.V4}
		var err error
		p.object, err = m.API.CoreV1().Pods(space).UpdateStatus(t.Context(), p.object, metav1.UpdateOptions{})
		nettest.Must(t, err)
	}
	m.Stop()
	nettest.Must(t, silent(other.Namespace, web.At()))
	nettest.Must(t, answer(client.Namespace, web.At()))
	m.start()
	extra := m.pod("extra") // by then the rules are those of the new one
	nettest.Must(t, silent(extra.Namespace, web.At()))
	nettest.Must(t, silent(other.Namespace, web.At()))
	nettest.Must(t, answer(client.Namespace, web.At()))
	if _, err := begun.Ask(20 * time.Second); err != nil {
		t.Errorf("a connection did not outlive the restart: %v", err)
	}
	// What was removed while nobody looked is noticed at the next start.
	m.Stop()
	nettest.Must(t, m.API.NetworkingV1().NetworkPolicies(space).Delete(t.Context(), "allow", metav1.DeleteOptions{}))
	m.start()
	m.Rules.Until("the table goes", func() error {
		if got := m.tables(); len(got) > 0 {
			return fmt.Errorf("there is table %v", got)
		}
		return nil
	})
	nettest.Must(t, answer(other.Namespace, web.At()))
}

// Somebody who removes the table is noticed at the next change, and the whole comes back.
func TestTableOfOthers(t *testing.T) {
	m := newMachine(t)
	web, client := m.pod("web"), m.pod("client")
	m.policy("deny", "web", isolated)
	m.until("nobody reaches web", silent, client.Namespace, web)
	nettest.Must(t, policy.Uninstall(table))
	nettest.Must(t, answer(client.Namespace, web.At()))
	m.policy("more", "client", isolated)
	m.until("nobody reaches web again", silent, client.Namespace, web)
	m.until("nobody reaches client", silent, web.Namespace, client)
}
