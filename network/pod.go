package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Setup gives the sandbox, whose network namespace is at netnsPath, its address of each of the node's networks, and makes
// its host ports lead to it. Repeated for the same sandbox it returns the same addresses and repairs what is missing; the
// ports are those of the first time. When it fails the caller calls Teardown.
func (n *Network) Setup(ctx context.Context, sandboxID, netnsPath string, ports []*runtimeapi.PortMapping) ([]netip.Addr, error) {
	defer n.pods.lock(sandboxID)()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, known := n.journal.get(sandboxID)
	if !known {
		wanted, err := hostPorts(ports)
		if err != nil {
			return nil, fmt.Errorf("set up network of sandbox %s: %w", sandboxID, err)
		}
		p = pod{Sandbox: sandboxID, Interface: n.interfaceName(sandboxID), Ports: wanted}
		if p, err = n.journal.reserve(p, n.cfg.NodeCIDRs); err != nil {
			return nil, fmt.Errorf("set up network of sandbox %s: %w", sandboxID, err)
		}
	}
	if err := n.connect(p, netnsPath); err != nil {
		return nil, fmt.Errorf("set up network of sandbox %s: %w", sandboxID, err)
	}
	if err := n.applyRules(); err != nil {
		return nil, fmt.Errorf("set up network of sandbox %s: %w", sandboxID, err)
	}
	if err := forgetHostFlows(p); err != nil {
		return nil, fmt.Errorf("set up network of sandbox %s: %w", sandboxID, err)
	}
	return slices.Clone(p.Addresses), nil
}

// Teardown removes the network of the sandbox and gives its addresses back. One that it does not know is no error. The
// namespace may be gone already.
func (n *Network) Teardown(_ context.Context, sandboxID string) error {
	defer n.pods.lock(sandboxID)()
	p, known := n.journal.get(sandboxID)
	if !known {
		return nil
	}
	if err := removeLink(p.Interface); err != nil {
		return fmt.Errorf("tear down network of sandbox %s: %w", sandboxID, err)
	}
	if err := n.journal.release(sandboxID); err != nil {
		return fmt.Errorf("tear down network of sandbox %s: %w", sandboxID, err)
	}
	if err := errors.Join(n.applyRules(), forgetPodFlows(p)); err != nil {
		return fmt.Errorf("tear down network of sandbox %s: %w", sandboxID, err)
	}
	return nil
}

// Addresses returns those of the sandbox; nil when it has none.
func (n *Network) Addresses(sandboxID string) []netip.Addr {
	p, _ := n.journal.get(sandboxID)
	return slices.Clone(p.Addresses)
}

// hostPorts picks those mappings that ask for a host port.
func hostPorts(mappings []*runtimeapi.PortMapping) ([]hostPort, error) {
	var list []hostPort
	for _, m := range mappings {
		if m.GetHostPort() == 0 {
			continue
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, fmt.Errorf("port mapping %d to %d is out of range", m.HostPort, m.ContainerPort)
		}
		p := hostPort{HostPort: uint16(m.HostPort), Port: uint16(m.ContainerPort)}
		switch m.Protocol {
		case runtimeapi.Protocol_TCP:
			p.Protocol = unix.IPPROTO_TCP
		case runtimeapi.Protocol_UDP:
			p.Protocol = unix.IPPROTO_UDP
		case runtimeapi.Protocol_SCTP:
			p.Protocol = unix.IPPROTO_SCTP
		default:
			return nil, fmt.Errorf("port mapping %d has the unknown protocol %v", m.HostPort, m.Protocol)
		}
		if m.HostIp != "" {
			host, err := netip.ParseAddr(m.HostIp)
			if err != nil {
				return nil, fmt.Errorf("parse host address of port %s: %w", p, err)
			}
			if host = host.Unmap(); !host.IsUnspecified() {
				p.Host = host
			}
		}
		if slices.ContainsFunc(list, p.collides) {
			return nil, fmt.Errorf("host port %s is asked for twice", p)
		}
		list = append(list, p)
	}
	return list, nil
}

func protocolName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(number)
}
