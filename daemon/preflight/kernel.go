package preflight

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
)

// inNamespaces runs f on a thread of its own in new namespaces, which end with it.
func inNamespaces(flags int, f func() error) error {
	return ownthread.Run(func() error {
		if err := unix.Unshare(flags | unix.CLONE_FS); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		return f()
	})
}

func checkOverlay(string) Finding {
	err := inNamespaces(unix.CLONE_NEWNS, func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		base, err := os.MkdirTemp("", "peapod-check-")
		if err != nil {
			return err
		}
		defer os.Remove(base)
		if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		defer unix.Unmount(base, unix.MNT_DETACH)
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
				return err
			}
		}
		opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)
		if err := unix.Mount("overlay", base+"/merged", "overlay", 0, opts); err != nil {
			return fmt.Errorf("mount overlay: %w", err)
		}
		return unix.Unmount(base+"/merged", 0)
	})
	if err != nil {
		return Finding{Severity: Fatal, Found: err.Error(), Fix: "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS"}
	}
	return Finding{Found: "overlay mounts work"}
}

func checkNetwork(string) Finding {
	err := inNamespaces(unix.CLONE_NEWNET, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer nl.Close()
		if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "check0"}, PeerName: "check1"}); err != nil {
			return fmt.Errorf("make veth pair: %w (modprobe veth)", err)
		}
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w (modprobe nf_tables)", err)
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "check"})
		c.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("make nftables chain: %w (modprobe nf_tables nft_chain_nat)", err)
		}
		return nil
	})
	if err != nil {
		return Finding{Severity: Fatal, Found: err.Error(), Fix: "load the modules veth, nf_tables and nft_chain_nat, or use a kernel that has them"}
	}
	return Finding{Found: "network namespaces, veth and nftables work"}
}
