package kubernetesservice

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/apiserver/servertest"
)

// member is one of several servers, as far as this package goes.
type member struct{ stop func() }

// startMember runs a controller whose clock stands still: it learns of the others by events alone. stop ends it as a server that is told to stop.
func startMember(t *testing.T, client kubernetes.Interface, name, address string) *member {
	t.Helper()
	m := &member{}
	shared := informers.NewSharedInformerFactory(client, 0)
	k, err := New(Config{
		Client: client, Informers: shared, API: netip.MustParseAddrPort(address + ":6443"), Server: name, Clock: clocktesting.NewFakeClock(time.Now()),
		ServiceIP: netip.MustParseAddr("10.96.0.1"), DNS: netip.MustParseAddr("10.96.0.10"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	shared.StartWithContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		shared.Shutdown()
	})
	t.Cleanup(m.stop)
	return m
}

// leadsTo waits until the Service leads to just these addresses.
func leadsTo(t *testing.T, client kubernetes.Interface, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	kept := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	w, err := kept.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, apiName).String()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last []string
	for e := range w.ResultChan() {
		s, ok := e.Object.(*discoveryv1.EndpointSlice)
		if !ok || e.Type == watch.Deleted {
			continue
		}
		if last = addressesOf(s); slices.Equal(last, want) {
			return
		}
	}
	t.Fatalf("Service kubernetes leads to %v, want %v", last, want)
}

func addressesOf(s *discoveryv1.EndpointSlice) (all []string) {
	for _, e := range s.Endpoints {
		all = append(all, e.Addresses...)
	}
	return all
}

func TestServersComeAndGo(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	one := startMember(t, client, "one", "192.0.2.1")
	leadsTo(t, client, "192.0.2.1")
	two := startMember(t, client, "two", "192.0.2.2")
	leadsTo(t, client, "192.0.2.1", "192.0.2.2")
	// Told to stop, a server is left out at once.
	two.stop()
	leadsTo(t, client, "192.0.2.1")
	startMember(t, client, "three", "192.0.2.3")
	leadsTo(t, client, "192.0.2.1", "192.0.2.3")
	leases, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{LabelSelector: identityLabel + "=" + identity})
	if err != nil || len(leases.Items) != 2 {
		t.Fatalf("%d servers have a lease, %v", len(leases.Items), err)
	}
	one.stop()
	leadsTo(t, client, "192.0.2.3")
}

// TestServiceThatIsNotSeenYet: what the controller has made and its informer does not show is not taken for somebody else's.
func TestServiceThatIsNotSeenYet(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	k := &keeper{cfg: Config{Client: client, Informers: informers.NewSharedInformerFactory(client, 0), // which are never started
		API: netip.MustParseAddrPort("192.0.2.1:6443"), ServiceIP: netip.MustParseAddr("10.96.0.1"), DNS: netip.MustParseAddr("10.96.0.10")}}
	for range 2 {
		if err := k.service(t.Context(), k.apiService()); err != nil {
			t.Error(err)
		}
	}
	other := k.apiService()
	other.Name = "other"
	if err := k.service(t.Context(), other); err == nil {
		t.Error("an address that another Service has was not told of")
	}
}

// TestSilence: who is not heard of for as long as a Lease lives is taken for dead, however wrong its clock is.
func TestSilence(t *testing.T) {
	now := time.Now()
	s := &servers{lease: leaseName("one"), cfg: Config{Clock: clocktesting.NewFakeClock(now)}, seen: map[string]sighting{}}
	if a, _ := s.alive(now); a != nil {
		t.Errorf("a server that does not know itself knows %v", a)
	}
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s.seen[s.lease] = sighting{address: first, at: now}
	s.seen["two"] = sighting{address: second, renewed: now.Add(-time.Hour), at: now}
	a, again := s.alive(now.Add(life - time.Second))
	if !slices.Equal(a, []netip.Addr{first, second}) || again != time.Second {
		t.Errorf("alive are %v, for %s", a, again)
	}
	a, again = s.alive(now.Add(life))
	if !slices.Equal(a, []netip.Addr{first}) || again != 0 {
		t.Errorf("alive are %v, for %s", a, again)
	}
}
