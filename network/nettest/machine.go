package nettest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/network"
)

// Machine is a node with a Pod network of both families, and a world outside.
type Machine struct {
	*testing.T
	API   kubernetes.Interface
	World *Namespace
	Net   *network.Network
	Rules *Rules
	// Stop ends what Start has started, which leaves its rules.
	Stop func()
}

// PodNets are the networks of a Machine's Pods.
var PodNets = []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:3::/64")}

// NewMachine makes one, which goes with the test. uninstall removes the rules of what Start starts.
func NewMachine(t *testing.T, api kubernetes.Interface, uninstall func() error) *Machine {
	t.Helper()
	m := &Machine{T: t, API: api, World: NewWorld(t), Rules: FollowRules(t), Stop: func() {}}
	var err error
	m.Net, err = network.New(network.Config{NodeCIDRs: PodNets, DataDir: t.TempDir(), Instance: t.Name()})
	Must(t, err)
	Must(t, m.Net.Open(t.Context()))
	t.Cleanup(func() { Must(t, m.Net.Uninstall(context.Background())) })
	t.Cleanup(func() { Must(t, uninstall()) })
	t.Cleanup(func() { m.Stop() })
	return m
}

// Start runs what is made of informers that follow the API, as a new process would.
func (m *Machine) Start(component func(informers.SharedInformerFactory) (interface{ Run(context.Context) error }, error)) {
	m.Helper()
	factory := informers.NewSharedInformerFactory(m.API, 0)
	c, err := component(factory)
	Must(m, err)
	ctx, cancel := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	m.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.Errorf("%T ended with: %v", c, err)
		}
		factory.Shutdown()
	})
}

// Pod is a Pod of a Machine that answers with its name on port 8080, of TCP and UDP.
type Pod struct {
	*Namespace
	Name, V4, V6 string
}

// Pod makes one.
func (m *Machine) Pod(name string) *Pod {
	m.Helper()
	p := &Pod{Namespace: NewNamespace(m.T), Name: name}
	addresses, err := m.Net.Setup(m.Context(), name, p.Path, nil)
	Must(m, err)
	p.V4, p.V6 = addresses[0].String(), addresses[1].String()
	for _, proto := range []string{"tcp", "udp"} {
		ListenAs(m.T, p.Namespace, proto, ":8080", name)
	}
	return p
}

// At are where the Pod answers, in both families.
func (p *Pod) At() []string {
	return []string{net.JoinHostPort(p.V4, "8080"), net.JoinHostPort(p.V6, "8080")}
}
