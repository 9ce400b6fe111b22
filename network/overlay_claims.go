package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// claims is which nodes say to have which Pod network. The oldest node has it; what others claim takes effect when it goes. A change of a
// node costs the same however many there are. It is not safe for concurrent use.
type claims struct {
	nodes map[string]claim
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

func newClaims() claims {
	return claims{nodes: map[string]claim{}, networks: map[netip.Prefix][]claim{}, moved: map[netip.Prefix]Peer{}}
}

// byAge orders the claims on a network: the oldest node first.
func byAge(a, b claim) int {
	if c := a.since.Compare(b.since); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// set takes what a node says now; a node without an address or a network claims nothing. The error names a node that is left out,
// because it is younger than another that claims the same: nothing is to be done again.
func (c *claims) set(is claim) error {
	c.remove(is.Name)
	if !is.IP.IsValid() || !is.CIDR.IsValid() {
		return nil
	}
	c.nodes[is.Name] = is
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
func (c *claims) remove(name string) {
	was, known := c.nodes[name]
	if !known {
		return
	}
	delete(c.nodes, name)
	left := slices.DeleteFunc(c.networks[was.CIDR], func(other claim) bool { return other.Name == name })
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
