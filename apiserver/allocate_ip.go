package apiserver

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/resource"
)

// ipAllocator hands out cluster IPs. It holds only what is taken; the stored Services are the truth, from which it is
// filled when the server starts.
type ipAllocator struct {
	mu     sync.Mutex
	ranges []*ipRange
}

var _ resource.IPAllocator = (*ipAllocator)(nil)

// ipRange is one family's range. Addresses are numbers from its start: 0, the network, and, in IPv4, the last, the
// broadcast address, are never handed out. The lower numbers are kept for those who ask for one by address, as long as
// there are others (KEP-3070).
type ipRange struct {
	family corev1.IPFamily
	prefix netip.Prefix
	size   uint64 // addresses 1..size may be handed out
	kept   uint64 // the first of them that are handed out last
	taken  map[uint64]struct{}
}

func newIPAllocator(prefixes []netip.Prefix) (*ipAllocator, error) {
	if len(prefixes) > 2 {
		return nil, fmt.Errorf("set up cluster IPs: %d ranges given, at most one of each family is possible", len(prefixes))
	}
	a := &ipAllocator{}
	for _, p := range prefixes {
		r, err := newIPRange(p)
		if err != nil {
			return nil, err
		}
		if a.of(r.family) != nil {
			return nil, fmt.Errorf("set up cluster IPs: two ranges of family %s given", r.family)
		}
		a.ranges = append(a.ranges, r)
	}
	return a, nil
}

func newIPRange(p netip.Prefix) (*ipRange, error) {
	p = p.Masked()
	r := &ipRange{family: corev1.IPv6Protocol, prefix: p, taken: map[uint64]struct{}{}}
	bits := p.Addr().BitLen() - p.Bits()
	if bits < 3 {
		return nil, fmt.Errorf("set up cluster IPs: range %s is too small", p)
	}
	// No cluster has more Services than the addresses of a /108; larger ranges are used to there.
	r.size = 1<<min(bits, 20) - 1
	if p.Addr().Is4() {
		r.family = corev1.IPv4Protocol
		if bits <= 20 {
			r.size--
		}
	}
	if r.size >= 16 {
		r.kept = min(max(16, r.size/16), 256)
	}
	return r, nil
}

func (a *ipAllocator) of(f corev1.IPFamily) *ipRange {
	for _, r := range a.ranges {
		if r.family == f {
			return r
		}
	}
	return nil
}

func (a *ipAllocator) Families() []corev1.IPFamily {
	families := make([]corev1.IPFamily, 0, len(a.ranges))
	for _, r := range a.ranges {
		families = append(families, r.family)
	}
	return families
}

// The messages of these reach the user through the Service's validation errors.
var (
	errIPTaken = errors.New("provided IP is already allocated")
	errIPFull  = errors.New("range is full")
)

func (a *ipAllocator) Allocate(family corev1.IPFamily, ip string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.of(family)
	if r == nil {
		return "", errNoFamily(family)
	}
	if ip == "" {
		return r.any()
	}
	n, err := r.parse(ip)
	if err != nil {
		return "", err
	}
	if _, ok := r.taken[n]; ok {
		return "", errIPTaken
	}
	r.taken[n] = struct{}{}
	return r.address(n).String(), nil
}

func errNoFamily(f corev1.IPFamily) error {
	return fmt.Errorf("the cluster has no range of family %s", f)
}

// parse says which address of the range ip is.
func (r *ipRange) parse(ip string) (uint64, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return 0, fmt.Errorf("the provided IP (%s) is not a valid IP", ip)
	}
	n, ok := r.number(addr)
	if !ok {
		return 0, fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", addr, r.prefix)
	}
	return n, nil
}

// part is a run of n numbers of a range.
type part struct{ from, n uint64 }

// keptLast are the parts of the numbers from..from+n-1 in the order in which they are handed out: the first of them, which are
// kept, last.
func keptLast(from, kept, n uint64) []part { return []part{{from + kept, n - kept}, {from, kept}} }

// pick chooses a free number at random, so that one just released is not soon taken again, of the first part that has one.
func pick(parts []part, free func(uint64) bool) (number uint64, found bool) {
	for _, p := range parts {
		if p.n == 0 {
			continue
		}
		start := rand.Uint64N(p.n)
		for i := range p.n {
			if number := p.from + (start+i)%p.n; free(number) {
				return number, true
			}
		}
	}
	return 0, false
}

// parts are the numbers in the order in which they are handed out.
func (r *ipRange) parts() []part { return keptLast(1, r.kept, r.size) }

func (a *ipAllocator) Release(ip string) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return // "None" and the like, which nobody allocated
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.ranges {
		if n, ok := r.number(addr); ok {
			delete(r.taken, n)
		}
	}
}

// any takes a free address.
func (r *ipRange) any() (string, error) {
	number, found := pick(r.parts(), func(n uint64) bool {
		_, taken := r.taken[n]
		return !taken
	})
	if !found {
		return "", errIPFull
	}
	r.taken[number] = struct{}{}
	return r.address(number).String(), nil
}

// number says which address of the range addr is; false if it is none that can be handed out.
func (r *ipRange) number(addr netip.Addr) (uint64, bool) {
	if !r.prefix.Contains(addr) {
		return 0, false
	}
	n := new(big.Int).SetBytes(addr.AsSlice())
	n.Sub(n, new(big.Int).SetBytes(r.prefix.Addr().AsSlice()))
	if !n.IsUint64() || n.Uint64() == 0 || n.Uint64() > r.size {
		return 0, false
	}
	return n.Uint64(), true
}

func (r *ipRange) address(number uint64) netip.Addr {
	base := r.prefix.Addr().AsSlice()
	n := new(big.Int).SetBytes(base)
	n.Add(n, new(big.Int).SetUint64(number))
	addr, _ := netip.AddrFromSlice(n.FillBytes(base))
	return addr
}
