package proxy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/proxy"
)

// waysTo lists the routes of the host to a network.
func waysTo(t *testing.T, network string) []netlink.Route {
	t.Helper()
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	nettest.Must(t, err)
	want := netip.MustParsePrefix(network)
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return r.Dst == nil || r.Dst.String() != want.String() })
}

// awaitWays waits until there are n routes to a network.
func awaitWays(t *testing.T, network string, n int) {
	t.Helper()
	events, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	defer close(done)
	nettest.Must(t, netlink.RouteSubscribe(events, done))
	end := time.After(2 * time.Minute)
	for len(waysTo(t, network)) != n {
		select {
		case <-events:
		case <-end:
			t.Fatalf("%d routes lead to %s, want %d", len(waysTo(t, network)), network, n)
		}
	}
}

// A node leads to Services of a ServiceCIDR that came later as to all others, until it goes.
func TestServiceCIDRs(t *testing.T) {
	m := newMachine(t)
	a, client := m.Pod("a"), m.Pod("client")
	const network, address, unused = "203.0.113.0/24", "203.0.113.10", "203.0.113.11"
	ranges := m.API.NetworkingV1().ServiceCIDRs()
	_, err := ranges.Create(t.Context(), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{network}}}, metav1.CreateOptions{})
	nettest.Must(t, err)
	svc := m.service("web", func(spec *corev1.ServiceSpec) {
		spec.ClusterIP, spec.IPFamilyPolicy = address, ptr.To(corev1.IPFamilyPolicySingleStack)
	})
	m.endpoints(svc, at(a, self))
	awaitWays(t, network, 1)
	m.answers(nil, "tcp", address+":80", "a")
	for _, proto := range []string{"tcp", "udp"} {
		nettest.WantFrom(t, "Pod to cluster IP", client.Namespace, proto, address+":80", client.V4)
		nettest.WantFrom(t, "host to cluster IP", nil, proto, address+":80", gateway4)
	}
	for _, ns := range []*nettest.Namespace{nil, client.Namespace} {
		if got, err := nettest.Ask(ns, "tcp", unused+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("an address that no Service has: %v, %v", got, err)
		}
	}
	// What was here while no proxy ran goes when one runs again; what is still there stays.
	m.Stop()
	if n := len(waysTo(t, network)); n != 1 {
		t.Errorf("%d routes lead to %s while no proxy runs", n, network)
	}
	m.start()
	nettest.Must(t, m.API.CoreV1().Services(svc.Namespace).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}))
	m.Rules.Until("the Service to be gone", func() error {
		if got, err := nettest.Ask(client.Namespace, "tcp", address+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%v, %w", got, err)
		}
		return nil
	})
	m.Stop()
	nettest.Must(t, ranges.Delete(t.Context(), "more", metav1.DeleteOptions{}))
	m.start()
	awaitWays(t, network, 0)
	m.Stop()
	nettest.Must(t, proxy.Uninstall(table, serviceNets))
	for _, p := range serviceNets {
		if n := len(waysTo(t, p.String())); n != 0 {
			t.Errorf("%d routes lead to %s after everything was removed", n, p)
		}
	}
}
