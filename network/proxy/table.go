package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nft"
)

// The rules are few and the same for all Services; what belongs to one Service are elements of maps, so that the cost of a
// packet does not grow with the number of Services, nor that of a change with what has not changed. A new connection's
// first packet goes:
//
//	services   looks its destination up in the map "entry" (node ports under the address 0.0.0.0), which says where next:
//	pick_*     one chain for each number of endpoints: a random number below it, looked up in "ends" together with the
//	           destination, gives the endpoint; chains with a time in the name first look in "affinity" for the endpoint that
//	           the client had, and in "members" whether it is still one
//	ranges_*   (loadBalancerSourceRanges) let the packet go on to split_* if it comes from one of them
//	split_*    (externalTrafficPolicy Local) look at where the packet comes from, then go on by "inside" or "outside"
//	masquerade after routing, hides clients elsewhere: destinations in the service network, and those in "masq"; for those in
//	           "masqhere" (externalTrafficPolicy Local) this node alone, whose endpoints may be on others
//	blocked    packets that were not translated: those in "blocked" have no endpoint and are refused or dropped, and so is
//	           everything else in the service network; before routing, which has no way for them (in IPv6 it would say so)
const (
	chainServices    = "services"
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainBlocked     = "blocked"
	chainIncoming    = "incoming"
	chainOutgoing    = "outgoing"
	chainReject      = "reject"
)

// family is IPv4 or IPv6.
type family struct{ *nft.Family }

func familyOf(is6 bool) family { return family{nft.FamilyOf(is6)} }

// Networks are the addresses that rules know.
type Networks struct {
	// Service are the networks of cluster IPs, Pods those of this node's Pods. They decide which families there are. AllPods are
	// those of all nodes' Pods; Pods if empty.
	Service, Pods, AllPods []netip.Prefix
}

func (n *Networks) families() []family {
	var out []family
	for _, is6 := range []bool{false, true} {
		if slices.ContainsFunc(n.Service, func(p netip.Prefix) bool { return p.Addr().Is6() == is6 }) {
			out = append(out, familyOf(is6))
		}
	}
	return out
}

// classes are the chains beyond the constant ones that targets need. They only ever grow, so that a table is extended
// rather than replaced.
type classes struct {
	// sizes is the largest number of endpoints for which there are chains: a power of two.
	sizes int
	// affinities are the times of affinity in use; sourceSets are the restrictions, by the name of their chain.
	affinities map[time.Duration]bool
	sourceSets map[string][]netip.Prefix
}

const firstSizes = 8

func newClasses() *classes {
	return &classes{sizes: firstSizes, affinities: map[time.Duration]bool{}, sourceSets: map[string][]netip.Prefix{}}
}

// admit makes room for a target and says whether there was none.
func (c *classes) admit(f Frontend, t *target) (grown bool) {
	for n := max(len(t.inside), len(t.outside)); c.sizes < n; grown = true {
		c.sizes *= 2
	}
	if t.affinity > 0 && !c.affinities[t.affinity] {
		c.affinities[t.affinity], grown = true, true
	}
	if t.restricted {
		name := rangesChain(f, t)
		if _, ok := c.sourceSets[name]; !ok {
			c.sourceSets[name], grown = t.sources, true
		}
	}
	return grown
}

// outsideOffset is added to the numbers of endpoints for clients elsewhere, which are others under the same key.
const outsideOffset = 1 << 16

// kind tells chains for a frontend's own address from those for node ports.
func kind(f Frontend) string { return kindName(f.Addr.IsUnspecified()) }

func kindName(ports bool) string {
	if ports {
		return "port"
	}
	return "addr"
}

func pickChain(f family, kind string, offset uint32, affinity time.Duration, n int) string {
	side := "in"
	if offset > 0 {
		side = "out"
	}
	if affinity > 0 {
		return fmt.Sprintf("pick%s_%s_%s_%ds_%d", f.Suffix, kind, side, int(affinity.Seconds()), n)
	}
	return fmt.Sprintf("pick%s_%s_%s_%d", f.Suffix, kind, side, n)
}

func splitChain(f family, kind string) string { return "split" + f.Suffix + "_" + kind }

func rangesChain(f Frontend, t *target) string {
	sum := sha256.Sum256(fmt.Append(nil, t.sources))
	return fmt.Sprintf("ranges%s_%s_%s", familyOf(f.Addr.Is6()).Suffix, kind(f), hex.EncodeToString(sum[:])[:16])
}

// key is the part of a key that names the frontend.
func (f Frontend) key() []byte {
	return []byte(nft.Key(f.Addr.AsSlice(), []byte{f.Protocol}, binaryutil.BigEndian.PutUint16(f.Port)))
}

func endKey(a netip.AddrPort) string {
	return nft.Key(a.Addr().AsSlice(), binaryutil.BigEndian.PutUint16(a.Port()))
}

// elements calls yield with each element that the target of a frontend gives. It is a pure function.
func elements(front Frontend, t *target, yield func(set, key string, value nft.Value)) {
	f := familyOf(front.Addr.Is6())
	key := string(front.key())
	if len(t.inside) == 0 {
		to := nft.Value{Verdict: expr.VerdictGoto, Chain: chainReject}
		if t.drop {
			to = nft.Value{Verdict: expr.VerdictDrop}
		}
		yield("blocked"+f.Suffix, key, to)
		if front.Addr.IsLoopback() { // It is not the node port that it would be at another address.
			yield("entry"+f.Suffix, key, nft.Value{Verdict: expr.VerdictReturn})
		}
		return
	}
	pick := func(offset uint32, ends []netip.AddrPort) nft.Value {
		for i, end := range ends {
			slot := binaryutil.NativeEndian.PutUint32(offset + uint32(i))
			yield("ends"+f.Suffix, key+string(slot), nft.Value{Data: endKey(end)})
		}
		return nft.Value{Verdict: expr.VerdictGoto, Chain: pickChain(f, kind(front), offset, t.affinity, len(ends))}
	}
	inside := pick(0, t.inside)
	if t.affinity > 0 {
		for _, end := range slices.Concat(t.inside, t.outside) {
			yield("members"+f.Suffix, key+endKey(end), nft.Value{})
		}
	}
	switch {
	case t.masquerade:
		yield("masq"+f.Suffix, key, nft.Value{})
	case t.split:
		yield("masqhere"+f.Suffix, key, nft.Value{})
	}
	if !t.split && !t.restricted {
		yield("entry"+f.Suffix, key, inside)
		return
	}
	outside := inside
	if t.split {
		if outside = (nft.Value{Verdict: expr.VerdictDrop}); len(t.outside) > 0 {
			outside = pick(outsideOffset, t.outside)
		}
	}
	next := splitChain(f, kind(front))
	if t.restricted {
		next = rangesChain(front, t)
	}
	yield("inside"+f.Suffix, key, inside)
	yield("outside"+f.Suffix, key, outside)
	yield("entry"+f.Suffix, key, nft.Value{Verdict: expr.VerdictGoto, Chain: next})
}

// newTable describes the table without any Service.
func newTable(name string, nets *Networks, c *classes) *nft.Table {
	t := &nft.Table{Name: name}
	var services, blocked, post []nft.Rule
	blocked = append(blocked, nft.Rule{Comment: "let through before", Exprs: nft.Exprs(nft.Begun(), nft.Verdict(expr.VerdictReturn, ""))})
	var last []nft.Rule
	var chains []nft.Chain
	for _, f := range nets.families() {
		t.Sets = append(t.Sets, f.sets()...)
		services = append(services,
			nft.Rule{Comment: "addresses", Exprs: nft.Exprs(f.Match, f.load("addr", nft.Reg0), nft.To(nft.Reg0, "entry"+f.Suffix))},
			nft.Rule{Comment: "node ports", Exprs: nft.Exprs(f.Match, nft.ToLocal(), f.notLoopback(), f.load("port", nft.Reg0), nft.To(nft.Reg0, "entry"+f.Suffix))})
		blocked = append(blocked,
			nft.Rule{Comment: "no endpoint", Exprs: nft.Exprs(f.Match, f.load("addr", nft.Reg0), nft.To(nft.Reg0, "blocked"+f.Suffix))},
			nft.Rule{Comment: "no endpoint", Exprs: nft.Exprs(f.Match, nft.ToLocal(), f.load("port", nft.Reg0), nft.To(nft.Reg0, "blocked"+f.Suffix))})
		for _, p := range nets.Service {
			if p.Addr().Is6() == f.Is6 {
				last = append(last, nft.Rule{Comment: "no service", Exprs: nft.Exprs(f.Match, nft.DestinationIn(p), nft.NotToLocal(), nft.Verdict(expr.VerdictGoto, chainReject))})
			}
		}
		post = append(post, f.postrouting(nets)...)
		chains = append(chains, f.chains(nets, c)...)
	}
	jump := func(chain string) []nft.Rule { return []nft.Rule{{Exprs: nft.Verdict(expr.VerdictJump, chain)}} }
	nat := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules []nft.Rule) nft.Chain {
		return nft.Chain{Name: name, Hook: &nft.Hook{Type: nftables.ChainTypeNAT, Hook: *hook, Priority: *priority}, Rules: rules}
	}
	filter := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) nft.Chain {
		return nft.Chain{Name: name, Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: *hook, Priority: *priority}, Rules: jump(chainBlocked)}
	}
	t.Chains = append(chains,
		nft.Chain{Name: chainReject, Rules: []nft.Rule{
			{Exprs: nft.Exprs(nft.IsProtocol(unix.IPPROTO_TCP), nft.Reset())}, {Exprs: nft.Unreachable()}}},
		nft.Chain{Name: chainServices, Rules: services},
		nft.Chain{Name: chainBlocked, Rules: append(blocked, last...)},
		nat(chainPrerouting, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, jump(chainServices)),
		nat(chainOutput, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, jump(chainServices)),
		nat(chainPostrouting, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, append([]nft.Rule{
			{Comment: "stays here", Exprs: nft.Exprs(nft.OutToLoopback(), nft.Verdict(expr.VerdictReturn, ""))},
			{Comment: "no service's", Exprs: nft.Exprs(nft.Untranslated(), nft.Verdict(expr.VerdictReturn, ""))},
		}, post...)),
		filter(chainIncoming, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest+1)),
		filter(chainOutgoing, nftables.ChainHookOutput, nftables.ChainPriorityFilter),
	)
	return t
}

func (f family) sets() []nft.Set {
	front := []nftables.SetDatatype{f.Address, nftables.TypeInetProto, nftables.TypeInetService}
	end := []nftables.SetDatatype{f.Address, nftables.TypeInetService}
	with := func(a []nftables.SetDatatype, b ...nftables.SetDatatype) []nftables.SetDatatype {
		return append(slices.Clip(a), b...)
	}
	set := func(s nft.Set) nft.Set {
		s.Name += f.Suffix
		s.Elements = map[string]nft.Value{}
		return s
	}
	return []nft.Set{
		set(nft.Set{Name: "entry", Key: front, Verdicts: true}),
		set(nft.Set{Name: "inside", Key: front, Verdicts: true}),
		set(nft.Set{Name: "outside", Key: front, Verdicts: true}),
		set(nft.Set{Name: "blocked", Key: front, Verdicts: true}),
		set(nft.Set{Name: "ends", Key: with(front, nftables.TypeMark), Data: end}),
		set(nft.Set{Name: "members", Key: with(front, end...)}),
		set(nft.Set{Name: "masq", Key: front}),
		set(nft.Set{Name: "masqhere", Key: front}),
		set(nft.Set{Name: "affinity", Key: with([]nftables.SetDatatype{f.Address}, front...), Data: end, Dynamic: true}),
	}
}

// notLoopback leaves out ::1, from which nothing can leave the host: IPv6 has no route_localnet. There the port is closed.
func (f family) notLoopback() []expr.Any {
	if !f.Is6 {
		return nil
	}
	return []expr.Any{nft.Destination(true, nft.Reg0), &expr.Cmp{Op: expr.CmpOpNeq, Register: nft.Reg0, Data: netip.IPv6Loopback().AsSlice()}}
}

// load loads a packet's frontend into reg and on: its destination, or for node ports their address that stands for all.
func (f family) load(kind string, reg uint32) []expr.Any {
	addr := nft.Destination(f.Is6, reg)
	if kind == kindName(true) {
		addr = nft.Immediate(reg, make([]byte, 4*f.Words))
	}
	return []expr.Any{addr, nft.Protocol(reg + f.Words), nft.Port(reg + f.Words + 1)}
}

// chains are those that verdicts lead to.
func (f family) chains(nets *Networks, c *classes) []nft.Chain {
	var out []nft.Chain
	times := slices.Sorted(maps.Keys(c.affinities))
	for _, kind := range []string{kindName(false), kindName(true)} {
		for _, offset := range []uint32{0, outsideOffset} {
			for n := 1; n <= c.sizes; n++ {
				pick := f.pickRules(kind, offset, n)
				out = append(out, nft.Chain{Name: pickChain(f, kind, offset, 0, n), Rules: pick})
				for _, life := range times {
					out = append(out, nft.Chain{Name: pickChain(f, kind, offset, life, n), Rules: append(f.affinityRules(kind, offset, life, n), pick...)})
				}
			}
		}
		inside := f.insideRules(nets, kind)
		outside := nft.Rule{Exprs: nft.Exprs(f.load(kind, nft.Reg0), nft.To(nft.Reg0, "outside"+f.Suffix))}
		out = append(out, nft.Chain{Name: splitChain(f, kind), Rules: append(slices.Clip(inside), outside)})
		for _, name := range slices.Sorted(maps.Keys(c.sourceSets)) {
			prefix := "ranges" + f.Suffix + "_" + kind
			if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
				continue
			}
			var rules []nft.Rule
			for _, source := range c.sourceSets[name] {
				rules = append(rules, nft.Rule{Exprs: nft.Exprs(nft.SourceIn(source), nft.Verdict(expr.VerdictGoto, splitChain(f, kind)))})
			}
			out = append(out, nft.Chain{Name: name, Rules: append(rules, nft.Rule{Exprs: nft.Verdict(expr.VerdictDrop, "")})})
		}
	}
	return out
}

// pickRules send to one of n endpoints. The kernel reads maps as they are at each look, not as they were when the packet came:
// where a transaction has meanwhile left fewer endpoints than "entry" knew of, the one picked may be gone, but the first is
// there as long as there is any.
func (f family) pickRules(kind string, offset uint32, n int) []nft.Rule {
	slot := uint32(nft.Reg0) + f.Words + 2
	send := func(comment string, number expr.Any) nft.Rule {
		return nft.Rule{Comment: comment, Exprs: nft.Exprs(f.load(kind, nft.Reg0), []expr.Any{number},
			nft.Mapped(nft.Reg0, "ends"+f.Suffix, nft.Reg0), nft.DNAT(f.Is6, nft.Reg0, nft.Reg0+f.Words))}
	}
	rules := []nft.Rule{send("", nft.Random(slot, offset, uint32(n)))}
	if n > 1 {
		rules = append(rules, send("it has just gone", nft.Immediate(slot, binaryutil.NativeEndian.PutUint32(offset))))
	}
	return rules
}

// affinityRules send a client where it was sent last, or note where it is sent now. The registers hold the client's
// address, the frontend and then the endpoint, so that both "affinity" and "members" find their keys in a row. The rule
// after them does without affinity where its map is full.
func (f family) affinityRules(kind string, offset uint32, life time.Duration, n int) []nft.Rule {
	front := uint32(nft.Reg0) + f.Words
	end := front + f.Words + 2
	load := append([]expr.Any{nft.Source(f.Is6, nft.Reg0)}, f.load(kind, front)...)
	remember := []expr.Any{nft.Remember("affinity"+f.Suffix, nft.Reg0, end, life)}
	dnat := nft.DNAT(f.Is6, end, end+f.Words)
	return []nft.Rule{
		{Comment: "known client", Exprs: nft.Exprs(load, nft.Mapped(nft.Reg0, "affinity"+f.Suffix, end), nft.In(front, "members"+f.Suffix), remember, dnat)},
		{Comment: "its endpoint is gone", Exprs: nft.Exprs(load, []expr.Any{nft.Forget("affinity"+f.Suffix, nft.Reg0, front)})},
		{Comment: "new client", Exprs: nft.Exprs(load, []expr.Any{nft.Random(end, offset, uint32(n))},
			nft.Mapped(front, "ends"+f.Suffix, end), remember, dnat)},
	}
}

// insideRules go on by the map "inside" with what comes from this node: its own addresses and its Pods.
func (f family) insideRules(nets *Networks, kind string) []nft.Rule {
	to := nft.Exprs(f.load(kind, nft.Reg0), nft.To(nft.Reg0, "inside"+f.Suffix))
	var rules []nft.Rule
	for _, p := range nets.Pods {
		if p.Addr().Is6() == f.Is6 {
			rules = append(rules, nft.Rule{Comment: "from a Pod here", Exprs: nft.Exprs(nft.SourceIn(p), to)})
		}
	}
	return append(rules, nft.Rule{Comment: "from here", Exprs: nft.Exprs(nft.FromLocal(), to)})
}

func (f family) postrouting(nets *Networks) []nft.Rule {
	var rules []nft.Rule
	for _, p := range nets.Pods {
		if p.Addr().Is6() == f.Is6 {
			rules = append(rules, nft.Rule{Comment: "from a Pod here", Exprs: nft.Exprs(f.Match, nft.SourceIn(p), nft.Verdict(expr.VerdictReturn, ""))})
		}
	}
	for _, p := range nets.Service {
		if p.Addr().Is6() == f.Is6 {
			rules = append(rules, nft.Rule{Comment: "to a cluster IP", Exprs: nft.Exprs(f.Match,
				[]expr.Any{nft.OriginalDestination(nft.Reg0)}, nft.Within(p), nft.Masquerade())})
		}
	}
	// The port of the original destination stands in for it; the protocol has not changed.
	rest := []expr.Any{nft.Protocol(nft.Reg0 + f.Words), nft.OriginalPort(nft.Reg0 + f.Words + 1)}
	hide := func(comment, set string, who []expr.Any, to expr.Any) nft.Rule {
		return nft.Rule{Comment: comment, Exprs: nft.Exprs(f.Match, who, []expr.Any{to}, rest, nft.In(nft.Reg0, set+f.Suffix), nft.Masquerade())}
	}
	address, port := nft.OriginalDestination(nft.Reg0), nft.Immediate(nft.Reg0, make([]byte, 4*f.Words))
	return append(rules,
		hide("to an external address", "masq", nil, address), hide("to a node port", "masq", nil, port),
		hide("from here to an external address", "masqhere", nft.FromLocal(), address), hide("from here to a node port", "masqhere", nft.FromLocal(), port))
}
