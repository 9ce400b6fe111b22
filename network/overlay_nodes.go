package network

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/peapod/peapod/network/nft"
)

// What another node itself sends to Pods here comes from its address in the overlay, by which answers find back. Pods are to see the
// node as everybody knows it, by its address on the wire, as they would without an overlay: packets that begin a connection to a Pod
// are given that address on their last step, and answers to it are led back by the translation. All is in a table of its own, which is
// there while there are other nodes. Policies look before that: to them it is the address in the overlay.

// setNodes is the map from the one address to the other.
const setNodes = "nodes"

func (n *Network) nodesTable() string { return n.table + "_nodes" }

// nodeNames are the elements for nodes: the address in the overlay, and what Pods see. Names are of the IP family of this node's first
// network; a node whose address on the wire is of another stays as it is, and all do in their second network.
func (n *Network) nodeNames(peers map[netip.Prefix]Peer) map[string]nft.Value {
	names := map[string]nft.Value{}
	is6 := n.cfg.NodeCIDRs[0].Addr().Is6()
	for cidr, p := range peers {
		if p.IP.Is6() == is6 && cidr.Addr().Is6() == is6 {
			names[nodeKey(cidr)] = nodeName(p)
		}
	}
	return names
}

func nodeKey(cidr netip.Prefix) string { return nft.Key(gateway(cidr).AsSlice()) }
func nodeName(p Peer) nft.Value        { return nft.Value{Data: nft.Key(p.IP.AsSlice())} }

// desiredNodes describes the table. It is a pure function.
func desiredNodes(name, interfaces string, own netip.Prefix, names map[string]nft.Value) *nft.Table {
	f := nft.FamilyOf(own.Addr().Is6())
	seen := nft.Rule{Comment: "nodes by their address", Exprs: nft.Exprs(f.Match, nft.OutTo(interfaces),
		[]expr.Any{nft.Source(f.Is6, nft.Reg0)}, nft.Mapped(nft.Reg0, setNodes, nft.Reg0), nft.SNAT(f.Is6, nft.Reg0))}
	address := []nftables.SetDatatype{f.Address}
	return &nft.Table{Name: name,
		Sets: []nft.Set{{Name: setNodes, Key: address, Data: address, Elements: names}},
		Chains: []nft.Chain{{Name: chainPostrouting, Rules: []nft.Rule{seen},
			Hook: &nft.Hook{Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityNATSource}}}}
}

// nameNodes brings the table in line with the nodes that are wanted, of which those with the networks may have changed. What it costs
// is in proportion to these.
func (n *Network) nameNodes(changed []netip.Prefix) error {
	s := &n.overlay
	if len(s.wanted) == 0 {
		if s.names != nil && len(s.names) == 0 {
			return nil
		}
		s.names = nil
		if err := n.rules.Delete(n.nodesTable()); err != nil {
			return fmt.Errorf("remove names of nodes: %w", err)
		}
		s.names = map[string]nft.Value{}
		return nil
	}
	if len(s.names) > 0 && n.rules.Update(n.nodesTable(), n.renamed(changed)) == nil {
		return nil
	}
	names := n.nodeNames(s.wanted)
	s.names = nil
	if err := n.rules.Apply(desiredNodes(n.nodesTable(), n.prefix, n.cfg.NodeCIDRs[0], names)); err != nil {
		return fmt.Errorf("name nodes to Pods: %w", err)
	}
	s.names = names
	return nil
}

// renamed is how the table changes with the nodes that have those networks; names follow.
func (n *Network) renamed(changed []netip.Prefix) nft.Update {
	s := &n.overlay
	d, now := nft.Delta{Set: setNodes}, map[netip.Prefix]Peer{}
	for _, cidr := range changed {
		if p, ok := s.wanted[cidr]; ok {
			now[cidr] = p
		}
		if key := nodeKey(cidr); s.names[key] != (nft.Value{}) {
			d.Gone = append(d.Gone, key)
			delete(s.names, key)
		}
	}
	d.Come = n.nodeNames(now)
	maps.Copy(s.names, d.Come)
	return nft.Update{Elements: []nft.Delta{d}}
}
