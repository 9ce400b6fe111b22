package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/network/nft"
)

// state is what the rules are made from, and what they are to be. It is told what has changed, works out what that changes in the
// rules and remembers it until it is committed. Of policies it makes only what Pods of this node need. It is deterministic and does no
// I/O.
type state struct {
	families   []family
	namespaces map[string]labels.Set
	policies   map[string]map[string]*policy  // by namespace and name
	pods       map[string]map[string]*subject // by namespace and name
	owners     map[netip.Addr][]*subject      // who claims an address

	// has are the rules that a Pod of this node has, by direction; nil where it is not isolated.
	has     map[types.NamespacedName][directions]*combination
	uses    uses
	desired desired
	// held are the elements that are there for an address.
	held map[netip.Addr][]element

	// What has changed since the last settle.
	changedPods       map[types.NamespacedName]bool
	changedAddrs      map[netip.Addr]bool
	changedNamespaces map[string]bool // whose policies have
}

func newState(families []family) *state {
	return &state{
		families: families, namespaces: map[string]labels.Set{}, policies: map[string]map[string]*policy{}, pods: map[string]map[string]*subject{},
		owners: map[netip.Addr][]*subject{}, has: map[types.NamespacedName][directions]*combination{}, uses: newUses(),
		desired: newDesired(families), held: map[netip.Addr][]element{},
		changedPods: map[types.NamespacedName]bool{}, changedAddrs: map[netip.Addr]bool{}, changedNamespaces: map[string]bool{},
	}
}

// element is one of a set.
type element struct {
	set, key string
	value    nft.Value
}

// setNamespace takes the labels of a namespace; nil if it is gone. It costs a look at its Pods.
func (s *state) setNamespace(name string, set labels.Set) {
	if old, known := s.namespaces[name]; known == (set != nil) && labels.Equals(old, set) {
		return
	}
	if set == nil {
		delete(s.namespaces, name)
	} else {
		s.namespaces[name] = set
	}
	for _, pod := range s.pods[name] {
		s.readdress(pod)
	}
}

// setPolicy takes a policy; nil if it is gone.
func (s *state) setPolicy(name types.NamespacedName, p *policy) {
	put(s.policies, name, p)
	s.changedNamespaces[name.Namespace] = true
}

// setPod takes a Pod; nil if rules need not know it any more.
func (s *state) setPod(name types.NamespacedName, pod *subject) {
	if old := s.pods[name.Namespace][name.Name]; old != nil {
		s.readdress(old)
		for _, a := range old.addrs {
			s.owners[a] = slices.DeleteFunc(s.owners[a], func(o *subject) bool { return o == old })
			if len(s.owners[a]) == 0 {
				delete(s.owners, a)
			}
		}
	}
	put(s.pods, name, pod)
	s.changedPods[name] = true
	if pod != nil {
		s.readdress(pod)
		for _, a := range pod.addrs {
			s.owners[a] = append(s.owners[a], pod)
		}
	}
}

// put is a change of a map of maps, which has none that is empty.
func put[T any](all map[string]map[string]*T, name types.NamespacedName, value *T) {
	in := all[name.Namespace]
	switch {
	case value != nil && in == nil:
		all[name.Namespace] = map[string]*T{name.Name: value}
	case value != nil:
		in[name.Name] = value
	default:
		if delete(in, name.Name); len(in) == 0 {
			delete(all, name.Namespace)
		}
	}
}

func (s *state) readdress(pod *subject) {
	for _, a := range pod.addrs {
		s.changedAddrs[a] = true
	}
}

// owner is the Pod that an address belongs to; nil if it is nobody's.
func (s *state) owner(a netip.Addr) *subject {
	var best *subject
	for _, pod := range s.owners[a] {
		if best == nil || pod.newer(best) {
			best = pod
		}
	}
	return best
}

// settle works all changes into what is desired. What is needed anew is taken before what is needed no more is given up: what both
// need keeps its number.
func (s *state) settle() {
	for namespace := range s.changedNamespaces {
		for name, pod := range s.pods[namespace] {
			if pod.local {
				s.changedPods[types.NamespacedName{Namespace: namespace, Name: name}] = true
			}
		}
	}
	var gone []*combination
	for name := range s.changedPods {
		is, was := [directions]*combination{}, s.has[name]
		if pod := s.pods[name.Namespace][name.Name]; pod != nil && pod.local {
			is = s.combine(pod)
		}
		for d := range is {
			if is[d] != nil {
				is[d] = s.take(is[d])
			}
			if is[d] != was[d] {
				if pod := s.pods[name.Namespace][name.Name]; pod != nil {
					s.readdress(pod)
				}
			}
			if was[d] != nil {
				gone = append(gone, was[d])
			}
		}
		if is == [directions]*combination{} {
			delete(s.has, name)
		} else {
			s.has[name] = is
		}
	}
	for _, c := range gone {
		s.give(c)
	}
	for a := range s.changedAddrs {
		s.refresh(a)
	}
	clear(s.changedNamespaces)
	clear(s.changedPods)
	clear(s.changedAddrs)
}

// combine returns the rules that a Pod has by the policies of its namespace.
func (s *state) combine(pod *subject) (out [directions]*combination) {
	for _, p := range s.policies[pod.Namespace] {
		if !p.pods.Matches(pod.labels) {
			continue
		}
		for d, isolates := range p.isolates {
			if !isolates {
				continue
			}
			if out[d] == nil {
				out[d] = &combination{}
			}
			out[d].rules = append(out[d].rules, p.rules[d]...)
		}
	}
	for d, c := range out {
		if c == nil {
			continue
		}
		if slices.ContainsFunc(c.rules, (*rule).open) {
			out[d] = nil // all is allowed
			continue
		}
		slices.SortFunc(c.rules, func(a, b *rule) int { return cmp.Compare(a.key, b.key) })
		c.rules = slices.CompactFunc(c.rules, func(a, b *rule) bool { return a.key == b.key })
		var keys strings.Builder
		for _, r := range c.rules {
			keys.WriteString(r.key)
		}
		c.key = shortKey(direction(d).String() + keys.String())
	}
	return out
}

// refresh makes the elements of an address those that its owner is to have.
func (s *state) refresh(a netip.Addr) {
	var is []element
	if pod := s.owner(a); pod != nil {
		is = s.elements(a, pod)
	}
	was := s.held[a]
	for _, e := range was {
		if !slices.Contains(is, e) {
			s.desired.drop(e.set, e.key)
		}
	}
	for _, e := range is {
		if !slices.Contains(was, e) {
			s.desired.put(e)
		}
	}
	if len(is) == 0 {
		delete(s.held, a)
	} else {
		s.held[a] = is
	}
}

// elements are those of an address in a family that there is.
func (s *state) elements(a netip.Addr, pod *subject) []element {
	i := slices.IndexFunc(s.families, func(f family) bool { return f.Is6 == a.Is6() })
	if i < 0 {
		return nil
	}
	f, address := s.families[i], a.AsSlice()
	var out []element
	isolated := false
	for d, c := range s.has[pod.key()] {
		if c == nil {
			continue
		}
		isolated = true
		verdict := nft.Value{Verdict: expr.VerdictGoto, Chain: f.podsChain(c.key)}
		if len(c.rules) == 0 {
			verdict = nft.Value{Verdict: expr.VerdictDrop}
		}
		out = append(out, element{f.set(direction(d).String()), nft.Key(address), verdict})
	}
	if isolated {
		out = append(out, element{set: f.set(setSelf), key: nft.Key(address, address)})
	}
	s.uses.groupsOf(pod, s.namespaces[pod.Namespace], func(number uint32) {
		out = append(out, element{set: f.set(setPeers), key: nft.Key(numberKey(number), address)})
	})
	for _, p := range pod.ports {
		for d := range directions {
			// Ports that a Pod is asked at are its own: of ingress rules only those of Pods here count.
			if number := s.uses.names[portName{d, p.name, p.protocol}]; number != nil && (d == egress || pod.local) {
				key := nft.Key(numberKey(number.number), address, []byte{p.protocol}, portKey(p.number))
				out = append(out, element{set: f.set(setPorts), key: key})
			}
		}
	}
	return out
}
