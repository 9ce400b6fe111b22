package pod_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// gate is a network that admits Pods once it is opened, and counts what has been released.
type gate struct {
	mu       sync.Mutex
	open     bool
	admitted map[types.UID][]string
	released []types.UID
}

func (g *gate) Admit(_ context.Context, p *v1.Pod, addresses []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return errors.New("no rules for it yet")
	}
	g.admitted[p.UID] = addresses
	return nil
}

func (g *gate) Release(namespace, name string, uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = append(g.released, uid)
}

// TestNetworkAdmitsFirst: no container of a Pod is made before the network has admitted the Pod's addresses, which are released when the
// Pod has none any more. The host's network is the host's own.
func TestNetworkAdmitsFirst(t *testing.T) {
	s := newStage(t)
	g := &gate{admitted: map[types.UID][]string{}}
	s.network = g
	s.start()
	a, host := onePod("a", nil), onePod("host", func(p *v1.Pod) { p.Spec.HostNetwork = true })
	s.m.Upsert(a)
	s.m.Upsert(host)
	s.until(host, "ran", running)
	s.until(a, "was refused", func(st v1.PodStatus) bool {
		return len(st.ContainerStatuses) > 0 && st.ContainerStatuses[0].State.Waiting != nil &&
			st.ContainerStatuses[0].State.Waiting.Message == "no rules for it yet"
	})
	g.mu.Lock()
	g.open = true
	g.mu.Unlock()
	st := s.until(a, "ran", running)
	g.mu.Lock()
	if got := g.admitted[a.UID]; !slices.Equal(got, []string{st.PodIP}) || len(g.admitted) != 1 {
		t.Errorf("admitted was %v, and the Pod has %s", g.admitted, st.PodIP)
	}
	g.mu.Unlock()
	s.m.Upsert(deleted(a, 1))
	s.gone(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.released, a.UID) {
		t.Errorf("released are %v", g.released)
	}
}
