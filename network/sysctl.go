package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"
)

const sysctlRoot = "/proc/sys/net"

// setSysctl writes a setting below net/ when it differs, and says whether it did.
func setSysctl(name, value string) (changed bool, err error) {
	path := filepath.Join(sysctlRoot, name)
	old, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read system setting: %w", err)
	}
	if strings.TrimSpace(string(old)) == value {
		return false, nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return false, fmt.Errorf("change system setting: %w", err)
	}
	return true, nil
}

// enableForwarding lets the machine route, the one setting that is the whole machine's. It stays on after Uninstall: by
// then something else may rely on it, which we cannot know. It is logged when it changes.
func (n *Network) enableForwarding(ctx context.Context) error {
	for _, network := range n.cfg.NodeCIDRs {
		name := "ipv4/ip_forward"
		if network.Addr().Is6() {
			name = "ipv6/conf/all/forwarding"
			if err := keepRouterAdvertisements(ctx); err != nil {
				return err
			}
		}
		changed, err := setSysctl(name, "1")
		if err != nil {
			return fmt.Errorf("enable forwarding for Pods: %w", err)
		}
		if changed {
			klog.FromContext(ctx).Info("Changed a system setting for Pods; it stays so", "setting", "net/"+name, "value", "1")
		}
	}
	return nil
}

// keepRouterAdvertisements: an interface that takes its address and route from router advertisements (accept_ra 1) stops
// to when forwarding is on, and the machine would lose its IPv6 network. With 2 it goes on.
func keepRouterAdvertisements(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(sysctlRoot, "ipv6/conf/*/accept_ra"))
	if err != nil {
		return fmt.Errorf("list IPv6 interfaces: %w", err)
	}
	for _, path := range paths {
		if name := filepath.Base(filepath.Dir(path)); name == "all" || name == "lo" {
			continue // these have no effect
		}
		old, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // the interface is gone
		}
		if err != nil {
			return fmt.Errorf("read system setting: %w", err)
		}
		name, err := filepath.Rel(sysctlRoot, path)
		if err != nil {
			return fmt.Errorf("name system setting: %w", err)
		}
		if strings.TrimSpace(string(old)) != "1" {
			continue
		}
		if _, err := setSysctl(name, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("keep router advertisements: %w", err)
		}
		klog.FromContext(ctx).Info("Changed a system setting for Pods; it stays so", "setting", "net/"+name, "value", "2")
	}
	return nil
}
