package proxy

import (
	"net/netip"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestServiceRanges(t *testing.T) {
	prefixes := func(all ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	c := &Config{NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Networks: Networks{
		Service: prefixes("10.96.0.0/16"), Pods: prefixes("10.244.3.0/24"), AllPods: prefixes("10.244.0.0/16")}}
	for _, tc := range []struct {
		name           string
		cidrs          []string
		ranges, refuse []netip.Prefix
	}{
		{"the default one alone", []string{"10.96.0.0/16"}, prefixes("10.96.0.0/16"), nil},
		{"none is known", nil, prefixes("10.96.0.0/16"), nil},
		{"more, the larger holds the smaller", []string{"10.96.8.0/24", "203.0.113.0/28", "203.0.113.0/24", "203.0.113.0/24"},
			prefixes("10.96.0.0/16", "203.0.113.0/24"), nil},
		{"a family that the cluster does not have", []string{"fd09::/64"}, prefixes("10.96.0.0/16"), nil},
		{"what cuts the node off", []string{"0.0.0.0/0", "192.0.2.0/24", "10.244.8.0/24", "127.9.0.0/16", "203.0.113.0/24"},
			prefixes("10.96.0.0/16", "203.0.113.0/24"), prefixes("0.0.0.0/0", "127.9.0.0/16", "10.244.8.0/24", "192.0.2.0/24")},
	} {
		var all []*networkingv1.ServiceCIDR
		for _, cidr := range tc.cidrs {
			all = append(all, &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}})
		}
		ranges, refused := c.serviceRanges(all)
		if !slices.Equal(ranges, tc.ranges) || !slices.Equal(refused, tc.refuse) {
			t.Errorf("%s: got %v, refused %v", tc.name, ranges, refused)
		}
	}
}
