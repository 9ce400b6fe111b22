package nettest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Rules hears of every transaction of nftables in a network namespace.
type Rules struct {
	t       *testing.T
	changed chan struct{} // has room for one
}

// FollowRules listens, in the test's own network namespace, until the test ends.
func FollowRules(t *testing.T) *Rules {
	t.Helper()
	return FollowRulesIn(t, 0)
}

// FollowRulesIn listens in the network namespace of a file descriptor; 0 is the test's own.
func FollowRulesIn(t *testing.T, namespace int) *Rules {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1), NetNS: namespace})
	Must(t, err)
	r := &Rules{t: t, changed: make(chan struct{}, 1)}
	ended := make(chan struct{})
	t.Cleanup(func() {
		Must(t, conn.Close())
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			// Too many at once are an error, after which there is something to look at, too.
			if _, err := conn.Receive(); err != nil && t.Context().Err() != nil {
				return
			}
			select {
			case r.changed <- struct{}{}:
			default:
			}
		}
	}()
	return r
}

// Until looks again after each change of the kernel's rules, until there is no error.
func (r *Rules) Until(what string, look func() error) {
	r.t.Helper()
	end := time.NewTimer(2 * longest)
	defer end.Stop()
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-r.changed:
		case <-end.C:
			r.t.Fatalf("not in time: %s: %v", what, err)
		}
	}
}

// Elements counts what the sets of a table have in them, by name, and its chains as "chains", in the network namespace of the
// thread that asks.
func Elements(table string) (map[string]int, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	sets, err := conn.GetSets(&nftables.Table{Name: table, Family: nftables.TableFamilyINet})
	if err != nil {
		return nil, fmt.Errorf("list sets of table %s: %w", table, err)
	}
	counts := map[string]int{}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("list elements of set %s: %w", s.Name, err)
		}
		counts[s.Name] = len(elements)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == table {
			counts["chains"]++
		}
	}
	return counts, nil
}
