package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/serviceip"
)

// serviceRanges are the networks of cluster IPs: those that the node was started with, then those of ServiceCIDRs. Refused are
// those of ServiceCIDRs that would cut the node off from itself or from Pods: Services in them work, but nothing is said to
// who asks for an address that none has. A ServiceCIDR that is being deleted counts: it has Services yet. It is a pure function.
func (c *Config) serviceRanges(all []*networkingv1.ServiceCIDR) (ranges, refused []netip.Prefix) {
	ranges = masked(c.Networks.Service)
	var more []netip.Prefix
	for _, r := range all {
		more = append(more, serviceip.Prefixes(r)...)
	}
	// The larger first: what they contain is not needed.
	slices.SortFunc(more, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	own := slices.Concat(c.Networks.Pods, c.Networks.AllPods,
		[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")})
	for _, ip := range c.NodeIPs {
		own = append(own, netip.PrefixFrom(ip, ip.BitLen()))
	}
	for _, p := range more {
		sameFamily := func(o netip.Prefix) bool { return o.Addr().Is6() == p.Addr().Is6() }
		switch {
		case !slices.ContainsFunc(c.Networks.Service, sameFamily): // no Service has an address of it
		case slices.ContainsFunc(ranges, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Overlaps(p) }):
		case slices.ContainsFunc(own, p.Overlaps):
			refused = append(refused, p)
		default:
			ranges = append(ranges, p)
		}
	}
	return ranges, refused
}

// followRanges reads the ServiceCIDRs where they have changed, and leads to new networks. It says whether the rules must follow.
func (p *Proxy) followRanges(ctx context.Context) (changed bool, err error) {
	p.mu.Lock()
	moved := p.regroup
	p.regroup = false
	p.mu.Unlock()
	if !moved {
		return false, nil
	}
	all, err := p.ranges.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list service CIDRs: %w", err)
	}
	want, refused := p.cfg.serviceRanges(all)
	for _, r := range refused {
		klog.FromContext(ctx).Error(errors.New("overlaps addresses of this node or of Pods"), "Rules and routes leave out a range of a ServiceCIDR; delete it", "cidr", r)
	}
	changed = !slices.Equal(want, p.nets.Service)
	p.nets.Service, p.routed = want, false
	return changed, nil
}

// route brings the routes in line with the networks of cluster IPs; after the rules, so that what has become nobody's is refused
// no more when nothing leads to it.
func (p *Proxy) route() error {
	if p.routed {
		return nil
	}
	err := errors.Join(p.cfg.addRoutes(p.nets.Service), dropRoutes(p.cfg.Table, masked(p.cfg.Networks.Service), p.nets.Service))
	p.routed = err == nil
	return err
}
