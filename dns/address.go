package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addAddress puts the address on lo, where every machine has one. It can be repeated.
func addAddress(a netip.Addr) error {
	if a.IsLoopback() {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.AddrReplace(lo, onLoopback(a)); err != nil {
		return fmt.Errorf("add the address %s of the cluster's DNS: %w", a, err)
	}
	return nil
}

// Uninstall removes the address. It needs no Server and can be repeated.
func Uninstall(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.AddrDel(lo, onLoopback(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove the address %s of the cluster's DNS: %w", a, err)
	}
	return nil
}

func onLoopback(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Scope: unix.RT_SCOPE_HOST}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}
