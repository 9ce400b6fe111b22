package policy

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/peapod/peapod/network/nft"
)

// The first packet of a connection that is forwarded, by then to its real destination, goes through two base chains, and must pass
// both; replies and what follows pass at once.
//
//	egress, ingress  look the Pod up, by source or destination, in the map "egress" or "ingress". A Pod that is not there is not
//	                 isolated. What a Pod sends to itself, which comes by here when a Service leads it back, is in "self"
//	pods_*           one chain for each combination of rules that a Pod of this node has: jumps to each of them, then drops
//	allow_*          one chain for each rule: accepts if the peer is in "peers", under the number of a group of Pods, or in a block of
//	                 addresses, and the port fits. Ports that have names are in "ports", under the number of the name, for each Pod that
//	                 has one
//	at_*             the ports of a rule that restricts both
//
// So a packet's cost grows with the rules for its own Pods alone, and Pods come and go as elements. Chains are named by their content.

// priorityIngress is behind that of egress: an accept ends one chain, not both.
var priorityIngress = nftables.ChainPriorityRef(*nftables.ChainPriorityFilter + 1)

// family is IPv4 or IPv6.
type family struct{ *nft.Family }

func familyOf(is6 bool) family { return family{nft.FamilyOf(is6)} }

func (f family) set(name string) string { return name + f.Suffix }

// The sets, to whose names the family is added; those for isolated Pods are called as their direction.
const (
	setSelf  = "self"
	setPeers = "peers"
	setPorts = "ports"
)

func (f family) podsChain(key string) string  { return "pods" + f.Suffix + "_" + key }
func (f family) allowChain(key string) string { return "allow" + f.Suffix + "_" + key }
func (f family) atChain(key string) string    { return "at" + f.Suffix + "_" + key }

// sets are those of the family, empty.
func (f family) sets() []nft.Set {
	set := func(s nft.Set) nft.Set {
		s.Name, s.Elements = f.set(s.Name), map[string]nft.Value{}
		return s
	}
	number, protocol, service := nftables.TypeMark, nftables.TypeInetProto, nftables.TypeInetService
	return []nft.Set{
		set(nft.Set{Name: egress.String(), Key: []nftables.SetDatatype{f.Address}, Verdicts: true}),
		set(nft.Set{Name: ingress.String(), Key: []nftables.SetDatatype{f.Address}, Verdicts: true}),
		set(nft.Set{Name: setSelf, Key: []nftables.SetDatatype{f.Address, f.Address}}),
		set(nft.Set{Name: setPeers, Key: []nftables.SetDatatype{number, f.Address}}),
		set(nft.Set{Name: setPorts, Key: []nftables.SetDatatype{number, f.Address, protocol, service}}),
	}
}

// baseChains are those that packets enter.
func baseChains(families []family) []nft.Chain {
	chain := func(d direction, priority *nftables.ChainPriority) nft.Chain {
		rules := []nft.Rule{{Comment: "let through before", Exprs: nft.Exprs(nft.Begun(), nft.Verdict(expr.VerdictAccept, ""))}}
		for _, f := range families {
			pod := nft.Source(f.Is6, nft.Reg0)
			if d == ingress {
				pod = nft.Destination(f.Is6, nft.Reg0)
			}
			both := []expr.Any{nft.Source(f.Is6, nft.Reg0), nft.Destination(f.Is6, nft.Reg0+f.Words)}
			rules = append(rules,
				nft.Rule{Comment: "a Pod to itself", Exprs: nft.Exprs(f.Match, both, nft.In(nft.Reg0, f.set(setSelf)), nft.Verdict(expr.VerdictAccept, ""))},
				nft.Rule{Comment: "isolated Pods", Exprs: nft.Exprs(f.Match, []expr.Any{pod}, nft.To(nft.Reg0, f.set(d.String())))})
		}
		return nft.Chain{Name: d.String(), Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookForward, Priority: *priority}, Rules: rules}
	}
	return []nft.Chain{chain(egress, nftables.ChainPriorityFilter), chain(ingress, priorityIngress)}
}

// numbers are those that groups and names of ports have in sets.
type numbers interface {
	group(key string) uint32
	name(n portName) uint32
}

// podsRules are those of the chain for a combination of rules.
func (f family) podsRules(rules []*rule) []nft.Rule {
	var out []nft.Rule
	for _, r := range rules {
		if f.allows(r) {
			out = append(out, nft.Rule{Exprs: nft.Verdict(expr.VerdictJump, f.allowChain(r.key))})
		}
	}
	return append(out, nft.Rule{Comment: "isolated", Exprs: nft.Verdict(expr.VerdictDrop, "")})
}

// allows says whether the rule can allow anything in the family.
func (f family) allows(r *rule) bool {
	peers := r.anyone || len(r.groups) > 0 || slices.ContainsFunc(r.blocks, func(b block) bool { return b.net.Addr().Is6() == f.Is6 })
	return peers && (r.everything || len(r.ports) > 0)
}

// ruleChains are the chains of a rule.
func (f family) ruleChains(r *rule, n numbers) []nft.Chain {
	if !f.allows(r) {
		return nil
	}
	allow := nft.Chain{Name: f.allowChain(r.key)}
	accept := nft.Verdict(expr.VerdictAccept, "")
	if r.anyone {
		allow.Rules = f.portRules(r, n, accept)
		return []nft.Chain{allow}
	}
	next, chains := accept, []nft.Chain(nil)
	if !r.everything {
		at := nft.Chain{Name: f.atChain(r.key), Rules: f.portRules(r, n, accept)}
		next, chains = nft.Verdict(expr.VerdictJump, at.Name), []nft.Chain{at}
	}
	for _, match := range f.peerMatches(r, n) {
		allow.Rules = append(allow.Rules, nft.Rule{Exprs: nft.Exprs(match, next)})
	}
	return append(chains, allow)
}

// peerMatches match the peers of a rule, each of them some.
func (f family) peerMatches(r *rule, n numbers) [][]expr.Any {
	peer := func(reg uint32) expr.Any {
		if r.towards == ingress {
			return nft.Source(f.Is6, reg)
		}
		return nft.Destination(f.Is6, reg)
	}
	var out [][]expr.Any
	for i := range r.groups {
		number := nft.Immediate(nft.Reg0, numberKey(n.group(r.groups[i].key)))
		out = append(out, nft.Exprs([]expr.Any{number, peer(nft.Reg1)}, nft.In(nft.Reg0, f.set(setPeers))))
	}
	for _, b := range r.blocks {
		if b.net.Addr().Is6() != f.Is6 {
			continue
		}
		match := nft.Exprs([]expr.Any{peer(nft.Reg0)}, nft.Within(b.net))
		for _, except := range b.except {
			if except.Addr().Is6() == f.Is6 {
				match = nft.Exprs(match, []expr.Any{peer(nft.Reg0)}, nft.NotWithin(except))
			}
		}
		out = append(out, match)
	}
	return out
}

// portRules go on with what is for a port of the rule.
func (f family) portRules(r *rule, n numbers, next []expr.Any) []nft.Rule {
	if r.everything {
		return []nft.Rule{{Exprs: next}}
	}
	var out []nft.Rule
	for _, p := range r.ports {
		match := nft.IsProtocol(p.protocol)
		switch {
		case p.name != "":
			number := n.name(portName{r.towards, p.name, p.protocol})
			address := uint32(nft.Reg1)
			key := []expr.Any{nft.Immediate(nft.Reg0, numberKey(number)), nft.Destination(f.Is6, address),
				nft.Protocol(address + f.Words), nft.Port(address + f.Words + 1)}
			match = nft.Exprs(match, key, nft.In(nft.Reg0, f.set(setPorts)))
		case p.first > 0:
			match = nft.Exprs(match, nft.PortBetween(p.first, p.last))
		}
		out = append(out, nft.Rule{Exprs: nft.Exprs(match, next)})
	}
	return out
}

// numberKey is a number as it is in sets.
func numberKey(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }
