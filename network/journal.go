package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/atomicfile"
)

// journal is the truth about who has which address. A record is on disk before anything of its sandbox is in the kernel,
// and leaves it after. Concurrent changes share one write: each waits until a write that began after its change is done.
type journal struct {
	path string

	mu      sync.Mutex // for state and version
	state   state
	version uint64 // counts changes

	writing sync.Mutex // held while writing; for written
	written uint64     // the version on disk
}

// state is what the file holds.
type state struct {
	Pods map[string]pod `json:"pods"` // by sandbox
	// Last is the address given out last, by network: the search for the next goes on from there, so that an address
	// rests as long as possible before it is used again.
	Last map[netip.Prefix]netip.Addr `json:"last"`
}

// pod is the network of one sandbox.
type pod struct {
	Sandbox   string       `json:"sandbox"`
	Interface string       `json:"interface"`
	Addresses []netip.Addr `json:"addresses"`
	Ports     []hostPort   `json:"ports,omitempty"`
}

// hostPort is one port of the host that leads to a Pod. Host is the zero Addr for all addresses of the host.
type hostPort struct {
	Protocol uint8      `json:"protocol"` // IP protocol number
	Host     netip.Addr `json:"host,omitzero"`
	HostPort uint16     `json:"hostPort"`
	Port     uint16     `json:"port"`
}

func (p hostPort) String() string {
	return fmt.Sprintf("%d/%s", p.HostPort, strings.ToUpper(protocolName(p.Protocol)))
}

// open reads the file. One that cannot be read as a journal, which no crash leaves, is as one that is gone: who had which address is lost, and
// sandboxes that have none are made anew (Addresses tells).
func (j *journal) open(log klog.Logger) error {
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read network journal: %w", err)
	}
	s := newState()
	if err == nil {
		err := json.Unmarshal(data, &s)
		if err == nil && (s.Pods == nil || s.Last == nil) {
			err = errors.New("it has no records")
		}
		if err != nil {
			log.Error(err, "The network journal is damaged, Pods get their network anew", "file", j.path)
			s = newState()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state = s
	return nil
}

func newState() state {
	return state{Pods: map[string]pod{}, Last: map[netip.Prefix]netip.Addr{}}
}

func (j *journal) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state = state{}
}

func (j *journal) get(sandbox string) (pod, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p, ok := j.state.Pods[sandbox]
	return p, ok
}

// list returns all records, by sandbox.
func (j *journal) list() []pod {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := slices.Collect(maps.Values(j.state.Pods))
	slices.SortFunc(list, func(a, b pod) int { return strings.Compare(a.Sandbox, b.Sandbox) })
	return list
}

// reserve finds addresses for a new record, one of each network, and writes it down.
func (j *journal) reserve(p pod, networks []netip.Prefix) (pod, error) {
	j.mu.Lock()
	if err := j.state.add(&p, networks); err != nil {
		j.mu.Unlock()
		return pod{}, err
	}
	j.version++
	version := j.version
	j.mu.Unlock()
	if err := j.sync(version); err != nil {
		return pod{}, err
	}
	return p, nil
}

// release takes the record of the sandbox out.
func (j *journal) release(sandbox string) error {
	j.mu.Lock()
	if _, ok := j.state.Pods[sandbox]; !ok {
		j.mu.Unlock()
		return nil
	}
	delete(j.state.Pods, sandbox)
	j.version++
	version := j.version
	j.mu.Unlock()
	return j.sync(version)
}

// sync returns when the given version is on disk.
func (j *journal) sync(version uint64) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.written >= version {
		return nil
	}
	j.mu.Lock()
	latest := j.version
	data, err := json.Marshal(j.state)
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encode network journal: %w", err)
	}
	if err := atomicfile.Write(j.path, data, 0o600); err != nil {
		return fmt.Errorf("write network journal: %w", err)
	}
	j.written = latest
	return nil
}

// add gives p an address of each network and puts it in. It changes nothing when it fails.
func (s *state) add(p *pod, networks []netip.Prefix) error {
	taken := map[netip.Addr]bool{}
	for _, other := range s.Pods {
		for _, a := range other.Addresses {
			taken[a] = true
		}
		if other.Interface == p.Interface && other.Sandbox != p.Sandbox {
			return fmt.Errorf("interface name %s of sandbox %s is taken by sandbox %s", p.Interface, p.Sandbox, other.Sandbox)
		}
		for _, port := range p.Ports {
			if slices.ContainsFunc(other.Ports, port.collides) {
				return fmt.Errorf("host port %s is in use by sandbox %s", port, other.Sandbox)
			}
		}
	}
	p.Addresses = nil
	for _, network := range networks {
		a, err := nextFree(network, s.Last[network], taken)
		if err != nil {
			return err
		}
		p.Addresses = append(p.Addresses, a)
	}
	for i, network := range networks {
		s.Last[network] = p.Addresses[i]
	}
	s.Pods[p.Sandbox] = *p
	return nil
}

func (p hostPort) collides(other hostPort) bool {
	sameHost := !p.Host.IsValid() || !other.Host.IsValid() || p.Host == other.Host
	return p.Protocol == other.Protocol && p.HostPort == other.HostPort && sameHost
}

// ErrNoAddress says that all addresses of the node's network are in use.
var ErrNoAddress = errors.New("no free address in the Pod network of this node")

// nextFree is the first address after last, round the network, that nobody has. The network's own address and the node's
// are left out, and in IPv4 the broadcast address.
func nextFree(network netip.Prefix, last netip.Addr, taken map[netip.Addr]bool) (netip.Addr, error) {
	first := gateway(network).Next()
	usable := func(a netip.Addr) bool {
		if !network.Contains(a) || a.Less(first) {
			return false
		}
		return a.Is6() || network.Contains(a.Next())
	}
	a := last
	// One address more than are taken is enough to find a free one, or to have been everywhere.
	for range len(taken) + 2 {
		if a.IsValid() {
			a = a.Next()
		}
		if !usable(a) {
			a = first
		}
		if !usable(a) {
			break
		}
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %s", ErrNoAddress, network)
}
