package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// zone answers for names of the cluster, at a cost that does not depend on how many there are.
type zone struct {
	// origin is the domain, absolute; address is the name server's own.
	origin   string
	address  netip.Addr
	services cache.Indexer
	slices   cache.Indexer
}

// Indexes of the shared informers.
const (
	slicesByService   = "dns/service"
	slicesByAddress   = "dns/address"
	servicesByAddress = "dns/address"
)

func newZone(cfg *Config) (*zone, []cache.DoneChecker, error) {
	services, slices := cfg.Informers.Core().V1().Services().Informer(), cfg.Informers.Discovery().V1().EndpointSlices().Informer()
	err := services.AddIndexers(cache.Indexers{servicesByAddress: func(obj any) ([]string, error) {
		return addressesOf(obj.(*corev1.Service)), nil
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("index services: %w", err)
	}
	err = slices.AddIndexers(cache.Indexers{
		slicesByService: func(obj any) ([]string, error) {
			s := obj.(*discoveryv1.EndpointSlice)
			return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
		},
		slicesByAddress: func(obj any) ([]string, error) {
			var out []string
			for _, e := range obj.(*discoveryv1.EndpointSlice).Endpoints {
				out = append(out, e.Addresses...)
			}
			return out, nil
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	z := &zone{origin: dns.CanonicalName(cfg.Domain), address: cfg.Address, services: services.GetIndexer(), slices: slices.GetIndexer()}
	return z, []cache.DoneChecker{services.HasSyncedChecker(), slices.HasSyncedChecker()}, nil
}

// addressesOf are the cluster IPs of a Service.
func addressesOf(svc *corev1.Service) []string {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 && svc.Spec.ClusterIP != "" {
		ips = []string{svc.Spec.ClusterIP}
	}
	if len(ips) == 1 && ips[0] == corev1.ClusterIPNone {
		return nil
	}
	return ips
}

// found is what there is of a name. A name that exists without records of the type that is asked for is no error.
type found struct {
	exists  bool
	answers []dns.RR
	extra   []dns.RR
}

// fill answers a question about a name in the zone.
func (z *zone) fill(r *dns.Msg, q dns.Question) {
	r.Authoritative = true
	f := z.find(q)
	r.Answer = append(r.Answer, f.answers...)
	r.Extra = append(r.Extra, f.extra...)
	if !f.exists {
		r.Rcode = dns.RcodeNameError
	}
	if len(f.answers) == 0 {
		r.Ns = append(r.Ns, z.soa())
	}
}

func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(z.origin, dns.TypeSOA), Ns: "ns.dns." + z.origin, Mbox: "hostmaster." + z.origin,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// find looks a name up. Its labels, from the right: svc or pod, namespace, Service, then an endpoint or port.
func (z *zone) find(q dns.Question) found {
	name := strings.ToLower(q.Name)
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.origin))
	n := len(labels)
	if n == 0 {
		return z.apex(q)
	}
	at := func(i int) string { return labels[n-1-i] } // from the right
	switch {
	case at(0) == "svc" && n == 1, at(0) == "pod" && n == 1, at(0) == "dns" && n == 1:
		return found{exists: true}
	case at(0) == "dns" && n == 2 && at(1) == "ns":
		return found{exists: true, answers: addressRecords(q, []netip.Addr{z.address})}
	case at(0) == "dns-version" && n == 1:
		return z.version(q)
	case at(0) != "svc" && at(0) != "pod":
		return found{}
	case n == 2:
		return found{exists: z.populated(at(1))}
	case at(0) == "pod":
		return z.pod(q, labels[:n-2])
	}
	obj, ok, err := z.services.GetByKey(at(1) + "/" + at(2))
	if err != nil || !ok {
		return found{}
	}
	return z.service(q, obj.(*corev1.Service), labels[:n-3])
}

// populated says whether a namespace has names: one without Services has none.
func (z *zone) populated(namespace string) bool {
	keys, err := z.services.IndexKeys(cache.NamespaceIndex, namespace)
	return err == nil && len(keys) > 0
}

func (z *zone) apex(q dns.Question) found {
	f := found{exists: true}
	switch q.Qtype {
	case dns.TypeSOA:
		f.answers = []dns.RR{z.soa()}
	case dns.TypeNS:
		f.answers = []dns.RR{&dns.NS{Hdr: header(q.Name, dns.TypeNS), Ns: "ns.dns." + z.origin}}
	}
	return f
}

// version tells the version of the specification.
func (z *zone) version(q dns.Question) found {
	f := found{exists: true}
	if q.Qtype == dns.TypeTXT {
		f.answers = []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{"1.1.0"}}}
	}
	return f
}

// pod answers for a name that is a Pod's address with dashes. Whether there is such a Pod is not looked at, as upstream
// (pods insecure): who has a certificate for the name learns nothing new.
func (z *zone) pod(q dns.Question, rest []string) found {
	if len(rest) != 1 {
		return found{}
	}
	addr, ok := undashed(rest[0])
	if !ok {
		return found{}
	}
	return found{exists: true, answers: addressRecords(q, []netip.Addr{addr})}
}

// undashed reads 10-244-0-5 or fd00--5 as an address.
func undashed(label string) (netip.Addr, bool) {
	for _, separator := range []string{".", ":"} {
		if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", separator)); err == nil {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func dashed(a netip.Addr) string { return strings.NewReplacer(".", "-", ":", "-").Replace(a.String()) }

// service answers for a Service, or for one of its endpoints or ports, which rest names.
func (z *zone) service(q dns.Question, svc *corev1.Service, rest []string) found {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(rest) > 0 {
			return found{}
		}
		target := dns.Fqdn(svc.Spec.ExternalName)
		return found{exists: true, answers: []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target}}}
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	switch {
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		return z.ports(q, svc, headless, wanted{port: rest[0][1:], protocol: rest[1][1:]})
	case len(rest) == 1:
		return z.endpoint(q, svc, rest[0])
	case len(rest) > 1:
		return found{}
	}
	var addrs []netip.Addr
	if headless {
		for _, e := range z.endpoints(svc) {
			addrs = append(addrs, e.addr)
		}
		if len(addrs) == 0 {
			return found{}
		}
	}
	for _, ip := range addressesOf(svc) {
		if addr, err := netip.ParseAddr(ip); err == nil {
			addrs = append(addrs, addr)
		}
	}
	if q.Qtype == dns.TypeSRV {
		f := z.ports(q, svc, headless, wanted{})
		f.exists = true // a Service without ports has addresses all the same
		return f
	}
	return found{exists: true, answers: addressRecords(q, addrs)}
}

// endpointAddr is one address of an endpoint with the label that names it below its Service.
type endpointAddr struct {
	label string
	addr  netip.Addr
	ports []discoveryv1.EndpointPort
}

// endpoints are the ready addresses behind a Service, each once.
func (z *zone) endpoints(svc *corev1.Service) []endpointAddr {
	objs, err := z.slices.ByIndex(slicesByService, svc.Namespace+"/"+svc.Name)
	if err != nil {
		return nil // only an index that is not there fails
	}
	var out []endpointAddr
	for _, obj := range objs {
		s := obj.(*discoveryv1.EndpointSlice)
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if !ptr.Deref(e.Conditions.Ready, true) {
				continue
			}
			for _, a := range e.Addresses {
				if addr, err := netip.ParseAddr(a); err == nil {
					out = append(out, endpointAddr{label(e, addr), addr, s.Ports})
				}
			}
		}
	}
	return out
}

func label(e *discoveryv1.Endpoint, addr netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return *e.Hostname
	}
	return dashed(addr)
}

func (z *zone) endpoint(q dns.Question, svc *corev1.Service, label string) found {
	var f found
	var addrs []netip.Addr
	for _, e := range z.endpoints(svc) {
		if strings.EqualFold(e.label, label) {
			f.exists = true
			addrs = append(addrs, e.addr)
		}
	}
	f.answers = addressRecords(q, addrs)
	if f.exists && q.Qtype == dns.TypeSRV {
		f = z.ports(q, svc, true, wanted{endpoint: label})
		f.exists = true // without ports, too
	}
	return f
}

// wanted is which ports are asked for; empty fields mean all.
type wanted struct {
	port, protocol string // both or none
	endpoint       string // the label of an endpoint
}

func (w wanted) is(name string, protocol corev1.Protocol) bool {
	return w.port == "" && w.protocol == "" || strings.EqualFold(name, w.port) && strings.EqualFold(string(protocol), w.protocol)
}

// ports answers with those ports of a Service, each with the same part of a weight of 100.
func (z *zone) ports(q dns.Question, svc *corev1.Service, headless bool, want wanted) found {
	f := z.weightless(q, svc, headless, want)
	for _, rr := range f.answers {
		rr.(*dns.SRV).Weight = uint16(max(100/len(f.answers), 1))
	}
	return f
}

func (z *zone) weightless(q dns.Question, svc *corev1.Service, headless bool, want wanted) found {
	var f found
	base := svc.Name + "." + svc.Namespace + ".svc." + z.origin
	seen := map[string]bool{}
	add := func(target string, number uint16, addrs ...netip.Addr) {
		f.exists = true
		if q.Qtype != dns.TypeSRV || seen[fmt.Sprint(target, number)] && len(addrs) == 0 {
			return
		}
		if key := fmt.Sprint(target, number); !seen[key] {
			seen[key] = true
			f.answers = append(f.answers, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Priority: 0, Port: number, Target: target})
		}
		for _, a := range addrs {
			if key := target + a.String(); !seen[key] {
				seen[key] = true
				f.extra = append(f.extra, addressRecord(target, a))
			}
		}
	}
	if !headless {
		var addrs []netip.Addr
		for _, ip := range addressesOf(svc) {
			if addr, err := netip.ParseAddr(ip); err == nil {
				addrs = append(addrs, addr)
			}
		}
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; want.is(p.Name, p.Protocol) {
				add(base, uint16(p.Port), addrs...)
			}
		}
		return f
	}
	for _, e := range z.endpoints(svc) {
		if want.endpoint != "" && !strings.EqualFold(e.label, want.endpoint) {
			continue
		}
		for _, p := range e.ports {
			if p.Port != nil && want.is(ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, corev1.ProtocolTCP)) {
				add(e.label+"."+base, uint16(*p.Port), e.addr)
			}
		}
	}
	return f
}

// addressRecords are the addresses of the family that is asked for, in any order, so that clients that take the first
// spread themselves.
func addressRecords(q dns.Question, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	seen := map[netip.Addr]bool{}
	for _, a := range addrs {
		want := q.Qtype == dns.TypeA && a.Is4() || q.Qtype == dns.TypeAAAA && a.Is6() || q.Qtype == dns.TypeANY
		if want && !seen[a] {
			seen[a] = true
			out = append(out, addressRecord(q.Name, a))
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func addressRecord(name string, a netip.Addr) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()}
}

// reverse answers for the address of a Service or an endpoint; false if it is none of the cluster's.
func (z *zone) reverse(r *dns.Msg, q dns.Question) bool {
	addr, ok := addressIn(strings.ToLower(q.Name))
	if !ok {
		return false
	}
	var names []string
	services, err := z.services.ByIndex(servicesByAddress, addr.String())
	if err != nil {
		return false
	}
	for _, obj := range services {
		svc := obj.(*corev1.Service)
		names = append(names, svc.Name+"."+svc.Namespace+".svc."+z.origin)
	}
	slices, err := z.slices.ByIndex(slicesByAddress, addr.String())
	if err != nil {
		return false
	}
	for _, obj := range slices {
		s := obj.(*discoveryv1.EndpointSlice)
		service := s.Labels[discoveryv1.LabelServiceName]
		if service == "" || len(services) > 0 {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			for _, a := range e.Addresses {
				if a == addr.String() && ptr.Deref(e.Conditions.Ready, true) {
					names = append(names, label(e, addr)+"."+service+"."+s.Namespace+".svc."+z.origin)
				}
			}
		}
	}
	if len(names) == 0 {
		return false
	}
	r.Authoritative = true
	if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
		for _, name := range names {
			r.Answer = append(r.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: name})
		}
	}
	return true
}

// addressIn reads the address in a name below in-addr.arpa or ip6.arpa.
func addressIn(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := len(rest) - 1; i >= 0; i -= 2 {
		b.WriteByte(rest[i])
		if n := 32 - i/2; n%4 == 0 && n < 32 {
			b.WriteByte(':')
		}
	}
	addr, err := netip.ParseAddr(b.String())
	return addr, err == nil
}
