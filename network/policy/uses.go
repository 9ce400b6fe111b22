package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"

	"github.com/google/nftables/binaryutil"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/peapod/peapod/network/nft"
)

// combination are the rules that Pods have in one direction: what they allow, together, and nothing else.
type combination struct {
	key   string
	rules []*rule // sorted by key, each once
	users int
}

// portName is a name of ports that rules of a direction use.
type portName struct {
	towards  direction
	name     string
	protocol uint8
}

// numbered is something that has a number in sets as long as rules use it.
type numbered struct {
	number uint32
	users  int
}

type usedGroup struct {
	group
	numbered
}

// uses counts who needs what: Pods combinations, these rules, and these groups of Pods and names of ports.
type uses struct {
	combinations map[string]*combination
	rules        map[string]int // in how many combinations
	names        map[portName]*numbered
	// groups are by key; near and wide are the same, by the namespace that their Pods are in, or in any.
	groups map[string]*usedGroup
	near   map[string]map[string]*usedGroup
	wide   map[string]*usedGroup
	// last is the number that was given last. None is given twice.
	last uint32
}

func newUses() uses {
	return uses{
		combinations: map[string]*combination{}, rules: map[string]int{}, names: map[portName]*numbered{},
		groups: map[string]*usedGroup{}, near: map[string]map[string]*usedGroup{}, wide: map[string]*usedGroup{},
	}
}

func (u *uses) group(key string) uint32   { return u.groups[key].number }
func (u *uses) name(name portName) uint32 { return u.names[name].number }

func (u *uses) next() uint32 {
	u.last++
	return u.last
}

// groupsOf yields the number of each group that the Pod, in a namespace with those labels, is in.
func (u *uses) groupsOf(pod *subject, namespace labels.Set, yield func(number uint32)) {
	for _, groups := range []map[string]*usedGroup{u.near[pod.Namespace], u.wide} {
		for _, g := range groups {
			if g.selects(pod, namespace) {
				yield(g.number)
			}
		}
	}
}

// take notes one more Pod with a combination of rules, and returns the one that all such Pods share.
func (s *state) take(c *combination) *combination {
	u := &s.uses
	if have := u.combinations[c.key]; have != nil {
		have.users++
		return have
	}
	c.users = 1
	u.combinations[c.key] = c
	for _, r := range c.rules {
		s.takeRule(r)
	}
	if len(c.rules) > 0 {
		for _, f := range s.families {
			s.desired.putChain(nft.Chain{Name: f.podsChain(c.key), Rules: f.podsRules(c.rules)})
		}
	}
	return c
}

func (s *state) takeRule(r *rule) {
	u := &s.uses
	if u.rules[r.key]++; u.rules[r.key] > 1 {
		return
	}
	for _, g := range r.groups {
		have := u.groups[g.key]
		if have == nil {
			have = &usedGroup{group: g, numbered: numbered{number: u.next()}}
			u.groups[g.key] = have
			if g.namespaces != nil {
				u.wide[g.key] = have
			} else if u.near[g.namespace] == nil {
				u.near[g.namespace] = map[string]*usedGroup{g.key: have}
			} else {
				u.near[g.namespace][g.key] = have
			}
			s.touchGroup(have)
		}
		have.users++
	}
	for name := range r.names() {
		have := u.names[name]
		if have == nil {
			have = &numbered{number: u.next()}
			u.names[name] = have
			s.touchName(name)
		}
		have.users++
	}
	for _, f := range s.families {
		for _, chain := range f.ruleChains(r, u) {
			s.desired.putChain(chain)
		}
	}
}

// give notes that a Pod has the combination no more.
func (s *state) give(c *combination) {
	u := &s.uses
	if c.users--; c.users > 0 {
		return
	}
	delete(u.combinations, c.key)
	for _, f := range s.families {
		s.desired.dropChain(f.podsChain(c.key))
	}
	for _, r := range c.rules {
		s.giveRule(r)
	}
}

func (s *state) giveRule(r *rule) {
	u := &s.uses
	if u.rules[r.key]--; u.rules[r.key] > 0 {
		return
	}
	delete(u.rules, r.key)
	for _, f := range s.families {
		s.desired.dropChain(f.allowChain(r.key))
		s.desired.dropChain(f.atChain(r.key))
	}
	for _, g := range r.groups {
		have := u.groups[g.key]
		if have.users--; have.users > 0 {
			continue
		}
		delete(u.groups, g.key)
		delete(u.wide, g.key)
		if delete(u.near[g.namespace], g.key); len(u.near[g.namespace]) == 0 {
			delete(u.near, g.namespace)
		}
		s.touchGroup(have)
	}
	for name := range r.names() {
		if have := u.names[name]; have.users > 1 {
			have.users--
		} else {
			delete(u.names, name)
			s.touchName(name)
		}
	}
}

// names are those that the rule has for ports, as often as it has them.
func (r *rule) names() iter.Seq[portName] {
	return func(yield func(portName) bool) {
		for _, p := range r.ports {
			if p.name != "" && !yield(portName{r.towards, p.name, p.protocol}) {
				return
			}
		}
	}
}

// touchGroup has the addresses of its Pods looked at again. It costs a look at the Pods of its namespace, or at all.
func (s *state) touchGroup(g *usedGroup) {
	if g.namespaces == nil {
		for _, pod := range s.pods[g.namespace] {
			if g.selects(pod, nil) {
				s.readdress(pod)
			}
		}
		return
	}
	for namespace, pods := range s.pods {
		for _, pod := range pods {
			if g.selects(pod, s.namespaces[namespace]) {
				s.readdress(pod)
			}
		}
	}
}

// touchName does so for Pods that have a port of that name.
func (s *state) touchName(name portName) {
	for _, pods := range s.pods {
		for _, pod := range pods {
			for _, p := range pod.ports {
				if p.name == name.name && p.protocol == name.protocol {
					s.readdress(pod)
				}
			}
		}
	}
}

func shortKey(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:12])
}

func portKey(n uint16) []byte { return binaryutil.BigEndian.PutUint16(n) }
