// Package network is the network of the Pods of one node: an address for each Pod, a way from and to every other Pod and
// the host, a masqueraded way to the outside, and host ports.
//
// A Pod's namespace has one end of a veth pair, eth0, with the Pod's address alone (/32, /128) and a default route over the
// node's own address in the Pod network, which every host end of those pairs carries. The host has one route for each Pod.
// So all traffic is routed, nothing is bridged, and what the kernel does for forwarded packets applies to all of it.
// Packets are translated by a table of ours in nftables (see rules.go); nobody else's rule is touched.
//
// All that exists is written down before it is made (see journal.go), and each step can be repeated: after kill -9 at any
// instant, Open and Reconcile finish or undo. Interfaces and the table carry the instance in their names, so that several
// instances, with different networks, share a machine.
//
// A host firewall that drops forwarded packets (ufw, firewalld, docker's policy) drops those of Pods, too: in netfilter an
// accept of ours cannot overrule a drop elsewhere. Such a host must allow forwarding from and to the Pod network.
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/network/nft"
)

// Config says which addresses a node's Pods get.
type Config struct {
	// Instance tells the interfaces and rules of several instances on one machine apart. Any text.
	Instance string
	// DataDir keeps the journal.
	DataDir string
	// NodeCIDRs are this node's part of the Pod network: one IPv4 or one IPv6 network, or one of each in the order in which
	// Pods show their addresses. The first address of each is the node's, and in IPv4 the last is left out.
	NodeCIDRs []netip.Prefix
	// ClusterCIDRs are all networks that Pods reach without translation: those of all nodes. NodeCIDRs need not be repeated.
	ClusterCIDRs []netip.Prefix
	// Overlay leads to the Pods of other nodes, see ChangePeers. Optional.
	Overlay Overlay
}

func (c *Config) validate() error {
	if c.Instance == "" || c.DataDir == "" {
		return errors.New("pod network: instance and data directory are required")
	}
	if len(c.NodeCIDRs) == 0 {
		return errors.New("pod network: no network for this node's Pods")
	}
	seen := map[bool]netip.Prefix{}
	for _, p := range append(append([]netip.Prefix{}, c.NodeCIDRs...), c.ClusterCIDRs...) {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return fmt.Errorf("pod network: %s is not a network", p)
		}
	}
	for _, p := range c.NodeCIDRs {
		if other, ok := seen[p.Addr().Is6()]; ok {
			return fmt.Errorf("pod network: %s and %s are of one IP family", other, p)
		}
		seen[p.Addr().Is6()] = p
		if spare := p.Addr().BitLen() - p.Bits(); spare < 2 {
			return fmt.Errorf("pod network: %s has no room for Pods", p)
		}
	}
	return nil
}

// Network is the Pod network of one node. Its methods are safe for concurrent use.
type Network struct {
	cfg Config
	// prefix begins the name of every host interface of this instance.
	prefix string
	table  string
	mtu    int // of Pods and of the overlay; set by Open

	journal *journal
	rules   nft.Applier
	// applying is held while the rules are brought in line with the journal.
	applying sync.Mutex
	// overlaying is held while the overlay is brought in line with the nodes.
	overlaying sync.Mutex
	overlay    overlayState
	// pods serialises the steps for one sandbox.
	pods keyLocks
}

// New returns the network of that configuration. It changes nothing; Open does.
func New(cfg Config) (*Network, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.NodeCIDRs = slices.Clone(cfg.NodeCIDRs)
	for i, p := range cfg.NodeCIDRs {
		cfg.NodeCIDRs[i] = p.Masked()
	}
	sum := sha256.Sum256([]byte(cfg.Instance))
	short := hex.EncodeToString(sum[:])[:5]
	return &Network{
		cfg:     cfg,
		prefix:  "pp" + short,
		table:   "peapod_" + short,
		journal: &journal{path: filepath.Join(cfg.DataDir, "pods.json")},
	}, nil
}

// Open takes over what an earlier process left: it reads the journal, removes interfaces that the journal does not know,
// turns forwarding on and puts the rules in place, in one step, also for the Pods that are there. It can be repeated.
func (n *Network) Open(ctx context.Context) error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make network directory: %w", err)
	}
	if err := n.journal.open(klog.FromContext(ctx)); err != nil {
		return err
	}
	if err := n.enableForwarding(ctx); err != nil {
		return err
	}
	mtu, err := n.findMTU()
	if err != nil {
		return err
	}
	n.mtu = mtu
	known := map[string]bool{}
	for _, p := range n.journal.list() {
		known[p.Interface] = true
	}
	if err := n.removeLinks(func(name string) bool { return !known[name] }); err != nil {
		return err
	}
	return n.applyRules()
}

// Close ends nothing: Pods keep their network. It exists for symmetry with Open.
func (n *Network) Close() error { return nil }

// Reconcile tears down the networks of all sandboxes but those given, once the runtime knows which there are.
func (n *Network) Reconcile(ctx context.Context, live []string) error {
	alive := map[string]bool{}
	for _, id := range live {
		alive[id] = true
	}
	// Removing an interface is mostly waiting, which several do better together.
	var group errgroup.Group
	group.SetLimit(16)
	var mu sync.Mutex
	var errs []error
	for _, p := range n.journal.list() {
		if alive[p.Sandbox] {
			continue
		}
		klog.FromContext(ctx).Info("Removing the network of a sandbox that is gone", "sandbox", p.Sandbox, "addresses", p.Addresses)
		group.Go(func() error {
			if err := n.Teardown(ctx, p.Sandbox); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), errors.Join(errs...))
}

// Uninstall removes all that this instance ever made on the machine but the system settings (see sysctl.go): interfaces
// and with them routes and addresses, the table, the journal. It needs no Open and can be repeated.
func (n *Network) Uninstall(context.Context) error {
	errs := []error{n.removeLinks(func(string) bool { return true }), removeLink(n.overlayName()), n.rules.Delete(n.table, n.nodesTable())}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.journal.forget()
	if err := os.RemoveAll(n.cfg.DataDir); err != nil {
		return fmt.Errorf("remove network journal: %w", err)
	}
	return nil
}

// ownCIDR is this node's part of the Pod network of an IP family; not valid if it has none.
func (n *Network) ownCIDR(is6 bool) netip.Prefix { return cidrs.List(n.cfg.NodeCIDRs).OfFamily(is6) }

// gateway is the node's own address in one of its networks.
func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// interfaceName is at most 15 characters: the instance's seven and eight of the sandbox.
func (n *Network) interfaceName(sandbox string) string {
	sum := sha256.Sum256([]byte(sandbox))
	return n.prefix + hex.EncodeToString(sum[:])[:8]
}

func (n *Network) ours(name string) bool {
	return strings.HasPrefix(name, n.prefix) && len(name) == len(n.prefix)+8
}

// keyLocks is a lock for each key in use. Its zero value is ready.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	mu   sync.Mutex
	refs int
}

// lock waits for the key's lock and returns what gives it back.
func (k *keyLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.refs++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(k.locks, key)
		}
	}
}
