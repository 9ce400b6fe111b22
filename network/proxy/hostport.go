package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/refusedports"
)

// yield takes from fronts those of this node's addresses on whose port a process of the host listens: a Service must not
// lead connections away from the machine's own SSH server. What a Service has already it keeps: a process that starts to
// listen there later gets nothing. It looks again whenever the Service or its endpoints change, and when a socket on such a port
// ends, and says once what it found. Two system calls for each frontend that is new.
func (p *Proxy) yield(ctx context.Context, svc *corev1.Service, fronts map[Frontend]*target) {
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	told := p.told[name]
	delete(p.told, name)
	wanted := map[Frontend]bool{} // true: by a load balancer
	for f := range fronts {
		if p.at.addresses[f.Addr] {
			wanted[f] = false
		}
	}
	for _, f := range balanced(svc, &p.at) {
		wanted[f] = true
	}
	for f, balancer := range wanted {
		if len(p.state.claims[f]) > 0 {
			continue
		}
		p.sockets.follow(ctx, f.Port, p.bell.Ring)
		used, err := inUse(f)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot tell whether the host listens on a port of a service", "service", name, "port", f.Port)
		}
		if !used {
			continue
		}
		delete(fronts, f)
		if p.told[name] == nil {
			p.told[name] = map[Frontend]bool{}
		}
		p.told[name][f] = balancer
		if _, said := told[f]; !said {
			p.tell(ctx, svc, f)
		}
	}
}

// tell says that a Service does not get a port.
func (p *Proxy) tell(ctx context.Context, svc *corev1.Service, f Frontend) {
	klog.FromContext(ctx).Info("Port of a service is in use by the host, and stays so", "service", klog.KObj(svc), "address", f.Addr, "port", f.Port)
	if p.cfg.Recorder != nil {
		p.cfg.Recorder.Eventf(svc, corev1.EventTypeWarning, "HostPortInUse",
			"A process of node %s listens on %s port %d at %s: connections to it there do not reach this service. Choose another port, or end that process",
			p.cfg.NodeName, protocolName(f.Protocol), f.Port, f.Addr)
	}
}

// report writes which ports load balancers are not to have here, if the Node says otherwise.
func (p *Proxy) report(ctx context.Context) error {
	var refused []refusedports.Port
	ports := map[uint16]bool{}
	for _, fronts := range p.told {
		for f, balancer := range fronts {
			if ports[f.Port] = true; balancer {
				refused = append(refused, refusedports.Port{Protocol: protocolName(f.Protocol), Number: f.Port})
			}
		}
	}
	p.sockets.keep(ports)
	text := refusedports.Format(refused)
	p.mu.Lock()
	due := p.node && text != p.reported
	p.mu.Unlock()
	if !due || p.cfg.Report == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := p.cfg.Report(ctx, text); err != nil {
		return fmt.Errorf("report ports that services do not get here: %w", err)
	}
	return nil // the Node's event says so
}

func protocolName(number uint8) corev1.Protocol {
	for name, n := range protocolNumbers {
		if n == number {
			return name
		}
	}
	return ""
}

// inUse says whether a process of the host listens on the frontend's port at its address, or at all addresses. It tries to
// bind the port, and lets it go at once without having listened.
func inUse(f Frontend) (bool, error) {
	kind := unix.SOCK_STREAM
	switch f.Protocol {
	case unix.IPPROTO_TCP:
	case unix.IPPROTO_UDP:
		kind = unix.SOCK_DGRAM
	default:
		return false, nil // SCTP: the host may not have it
	}
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: int(f.Port), Addr: as4(f.Addr)}
	if f.Addr.Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(f.Port), Addr: f.Addr.As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM {
		// Connections that were closed just now do not count, only listeners do.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false, fmt.Errorf("set up socket: %w", err)
		}
	}
	err = unix.Bind(fd, to)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return true, nil
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return false, nil // the machine does not have the address (yet), so nobody listens there
	case err != nil:
		return false, fmt.Errorf("bind %s: %w", netip.AddrPortFrom(f.Addr, f.Port), err)
	}
	return false, nil
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
