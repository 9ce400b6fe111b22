package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nft"
)

// The rules are constant for a configuration; Pods and their ports are elements of sets:
//
//	guard        before all translation: a Pod sends from its own address, and never to the host's loopback addresses,
//	             which route_localnet on its interface would let it reach
//	prerouting,  what is for an address of this host (127.0.0.1 too, from the host itself) and a host port in the maps
//	output       goes to the Pod
//	postrouting  masquerades what a Pod sends to itself by way of the host, what the host sends a Pod from 127.0.0.1, and
//	             what leaves the cluster
const (
	chainGuard       = "guard"
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainHostPorts   = "hostports"
)

// family holds what differs between IPv4 and IPv6.
type family struct {
	is6      bool
	match    []expr.Any
	address  nftables.SetDatatype
	hairpin  string // set: interface . address of each Pod
	ports    string // map: protocol . port -> address . port
	ownPorts string // map: host address . protocol . port -> address . port
}

func families() [2]family {
	return [2]family{
		{false, nft.Is4(), nftables.TypeIPAddr, "hairpin4", "hostports4", "hostports4_address"},
		{true, nft.Is6(), nftables.TypeIP6Addr, "hairpin6", "hostports6", "hostports6_address"},
	}
}

// desiredTable describes the table for a configuration and its Pods. It is a pure function.
func desiredTable(name, interfaces string, nodes, cluster []netip.Prefix, pods []pod) *nft.Table {
	t := &nft.Table{Name: name}
	var jumps, ports []nft.Rule
	post := []nft.Rule{}
	for _, f := range families() {
		t.Sets = append(t.Sets, f.sets(pods)...)
		ports = append(ports, f.portRules()...)
		post = append(post, f.hairpinRule())
	}
	jumps = []nft.Rule{{Comment: "host ports", Exprs: nft.Exprs(nft.ToLocal(), nft.Verdict(expr.VerdictJump, chainHostPorts))}}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	post = append(post, nft.Rule{
		Comment: "host ports on 127.0.0.1",
		Exprs:   nft.Exprs(nft.Is4(), nft.OutTo(interfaces), nft.SourceIn(loopback), nft.Masquerade()),
	})
	post = append(post, outsideRules(interfaces, nodes, cluster)...)
	t.Chains = []nft.Chain{
		{Name: chainGuard, Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityRaw}, Rules: guardRules(interfaces)},
		{Name: chainHostPorts, Rules: ports},
		{Name: chainPrerouting, Hook: &nft.Hook{Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityNATDest}, Rules: jumps},
		{Name: chainOutput, Hook: &nft.Hook{Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookOutput, Priority: *nftables.ChainPriorityNATDest}, Rules: jumps},
		{Name: chainPostrouting, Hook: &nft.Hook{Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityNATSource}, Rules: post},
	}
	return t
}

func guardRules(interfaces string) []nft.Rule {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	drop := nft.Verdict(expr.VerdictDrop, "")
	return []nft.Rule{
		{Comment: "no Pod reaches the host's loopback", Exprs: nft.Exprs(nft.InFrom(interfaces), nft.Is4(), nft.DestinationIn(loopback), drop)},
		{Comment: "a Pod sends from its address", Exprs: nft.Exprs(nft.InFrom(interfaces), nft.SpoofedSource(), drop)},
	}
}

// outsideRules masquerade what leaves the cluster.
func outsideRules(interfaces string, nodes, cluster []netip.Prefix) []nft.Rule {
	var rules []nft.Rule
	inside := append(append([]netip.Prefix{}, nodes...), cluster...)
	for _, node := range nodes {
		is6 := node.Addr().Is6()
		match := nft.Is4()
		if is6 {
			match = nft.Is6()
		}
		for _, c := range inside {
			if c.Addr().Is6() != is6 {
				continue
			}
			rules = append(rules, nft.Rule{
				Comment: "within the cluster",
				Exprs:   nft.Exprs(match, nft.SourceIn(node), nft.DestinationIn(c), nft.Verdict(expr.VerdictReturn, "")),
			})
		}
		rules = append(rules, nft.Rule{
			Comment: "to the outside",
			Exprs:   nft.Exprs(match, nft.SourceIn(node), nft.NotOutTo(interfaces), nft.Masquerade()),
		})
	}
	return rules
}

func (f *family) sets(pods []pod) []nft.Set {
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	target := []nftables.SetDatatype{f.address, port}
	hairpin := nft.Set{Name: f.hairpin, Key: []nftables.SetDatatype{nftables.TypeIFName, f.address}, Elements: map[string]nft.Value{}}
	ports := nft.Set{Name: f.ports, Key: []nftables.SetDatatype{proto, port}, Data: target, Elements: map[string]nft.Value{}}
	own := nft.Set{Name: f.ownPorts, Key: []nftables.SetDatatype{f.address, proto, port}, Data: target, Elements: map[string]nft.Value{}}
	for _, p := range pods {
		for _, a := range p.Addresses {
			if a.Is6() != f.is6 {
				continue
			}
			hairpin.Elements[nft.Key(interfaceKey(p.Interface), a.AsSlice())] = nft.Value{}
			for _, hp := range p.Ports {
				to := nft.Value{Data: nft.Key(a.AsSlice(), binaryutil.BigEndian.PutUint16(hp.Port))}
				number := binaryutil.BigEndian.PutUint16(hp.HostPort)
				switch {
				case !hp.Host.IsValid():
					ports.Elements[nft.Key([]byte{hp.Protocol}, number)] = to
				case hp.Host.Is6() == f.is6:
					own.Elements[nft.Key(hp.Host.AsSlice(), []byte{hp.Protocol}, number)] = to
				}
			}
		}
	}
	return []nft.Set{hairpin, ports, own}
}

// interfaceKey is a name as the kernel keeps it: sixteen bytes, padded with zeros.
func interfaceKey(name string) []byte {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return key
}

// registers says how many registers an address takes.
func (f *family) registers() uint32 { return f.address.Bytes / 4 }

func (f *family) portRules() []nft.Rule {
	words := f.registers()
	// The address for the translation comes first in the map's value, then the port.
	dnat := nft.DNAT(f.is6, nft.Reg0, nft.Reg0+words)
	own := nft.Exprs(f.match, []expr.Any{nft.Destination(f.is6, nft.Reg0), nft.Protocol(nft.Reg0 + words), nft.Port(nft.Reg0 + words + 1)},
		nft.Mapped(nft.Reg0, f.ownPorts, nft.Reg0), dnat)
	all := nft.Exprs(f.match, []expr.Any{nft.Protocol(nft.Reg0), nft.Port(nft.Reg1)}, nft.Mapped(nft.Reg0, f.ports, nft.Reg0), dnat)
	rules := []nft.Rule{{Comment: "host ports of one address", Exprs: own}}
	if f.is6 {
		// What the host sends from ::1 cannot leave it: IPv6 has no route_localnet.
		local := netip.PrefixFrom(netip.IPv6Loopback(), 128)
		rules = append(rules, nft.Rule{Comment: "not on ::1", Exprs: nft.Exprs(f.match, nft.DestinationIn(local), nft.Verdict(expr.VerdictReturn, ""))})
	}
	return append(rules, nft.Rule{Comment: "host ports", Exprs: all})
}

func (f *family) hairpinRule() nft.Rule {
	// An interface name takes four registers.
	key := []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: nft.Reg0}, nft.Source(f.is6, nft.Reg4)}
	return nft.Rule{Comment: "from a Pod to itself", Exprs: nft.Exprs(f.match, key, nft.In(nft.Reg0, f.hairpin), nft.Masquerade())}
}

// applyRules brings the table in line with the journal. Those who wait for it together share one transaction.
func (n *Network) applyRules() error {
	n.applying.Lock()
	defer n.applying.Unlock()
	return n.rules.Apply(desiredTable(n.table, n.prefix, n.cfg.NodeCIDRs, n.cfg.ClusterCIDRs, n.journal.list()))
}
