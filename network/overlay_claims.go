package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// claims is which nodes say to have which Pod networks, of each IP family one. The oldest node has it; what others claim takes effect when
// it goes. A change of a node costs the same however many there are. It is not safe for concurrent use.
type claims struct {
	nodes map[claimant]claim
	// networks are the claims on each, the first of which counts.
	networks map[netip.Prefix][]claim
	// moved holds each network that has another node than at the last take, or none.
	moved map[netip.Prefix]Peer
}

// claim is what a node says: where it is, and since when it has been there.
type claim struct {
	Peer
	since time.Time
}

// claimant is who claims: a node, for a family of addresses.
type claimant struct {
	node string
	is6  bool
}

func newClaims() claims {
	return claims{nodes: map[claimant]claim{}, networks: map[netip.Prefix][]claim{}, moved: map[netip.Prefix]Peer{}}
}

// byAge orders the claims on a network: the oldest node first.
func byAge(a, b claim) int {
	if c := a.since.Compare(b.since); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// set takes what a node says now of an IP family; a node without an address or a network claims nothing. The error names a node that is left out,
// because it is younger than another that claims the same: nothing is to be done again.
func (c *claims) set(is claim, is6 bool) error {
	who := claimant{is.Name, is6}
	c.remove(who)
	if !is.IP.IsValid() || !is.CIDR.IsValid() {
		return nil
	}
	c.nodes[who] = is
	all := c.networks[is.CIDR]
	at, _ := slices.BinarySearchFunc(all, is, byAge)
	all = slices.Insert(all, at, is)
	c.networks[is.CIDR] = all
	if at == 0 {
		c.moved[is.CIDR] = is.Peer
	}
	if len(all) == 1 {
		return nil
	}
	return fmt.Errorf("leave out node %s: node %s has its Pod network %s", all[max(at, 1)].Name, all[0].Name, is.CIDR)
}

// remove forgets what a node has said.
func (c *claims) remove(who claimant) {
	was, known := c.nodes[who]
	if !known {
		return
	}
	delete(c.nodes, who)
	left := slices.DeleteFunc(c.networks[was.CIDR], func(other claim) bool { return other.Name == who.node })
	if len(left) == 0 {
		delete(c.networks, was.CIDR)
		c.moved[was.CIDR] = Peer{}
		return
	}
	c.networks[was.CIDR] = left
	c.moved[was.CIDR] = left[0].Peer
}

// take returns the networks that have moved since the last call, with the node that has each; that is zero where none has.
func (c *claims) take() map[netip.Prefix]Peer {
	taken := c.moved
	c.moved = map[netip.Prefix]Peer{}
	return taken
}
