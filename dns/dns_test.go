package dns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// upstream is a resolver of the test's own: it knows example.com, and that nothing else is.
func upstream(t *testing.T, asked *atomic.Int32) (conf string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	var lost atomic.Bool // the first question for a name is
	server := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		if q.Question[0].Name == "lost.example.org." && !lost.Swap(true) {
			return
		}
		r := new(dns.Msg)
		r.SetReply(q)
		if strings.EqualFold(q.Question[0].Name, "example.com.") {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(203, 0, 113, 9)}}
		} else {
			r.Rcode = dns.RcodeNameError
		}
		if err := w.WriteMsg(r); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan error, 1)
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	})
	conf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return conf + ":" + port
}

func svc(name, ip string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}
	if change != nil {
		change(s)
	}
	return s
}

func objects() []runtime.Object {
	many := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "many-1", Labels: map[string]string{discoveryv1.LabelServiceName: "many"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range 200 {
		many.Endpoints = append(many.Endpoints, discoveryv1.Endpoint{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, 9, byte(i)}).String()}})
	}
	return []runtime.Object{
		svc("web", "10.96.1.1", func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:96::1") }),
		svc("bare", "None", func(s *corev1.Service) { s.Spec.Ports = nil }),
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "bare-1", Labels: map[string]string{discoveryv1.LabelServiceName: "bare"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.7"}}},
		},
		svc("db", "None", nil), svc("many", "None", nil), many, svc("lonely", "None", nil),
		svc("out", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}),
		svc("in", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.ns.svc.cluster.local"
		}),
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8080)), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.244.0.2"}, Hostname: ptr.To("db-0")},
				{Addresses: []string{"10.244.0.3"}},
				{Addresses: []string{"10.244.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			}},
	}
}

// serve runs a server on loopback and returns its address.
func serve(t *testing.T, asked *atomic.Int32) string {
	t.Helper()
	conf := upstream(t, asked)
	path, port, _ := strings.Cut(conf, ":")
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects()...), 0)
	s, err := New(Config{Address: netip.MustParseAddr("127.0.0.1"), Port: 1, Domain: "cluster.local", ResolvConf: path, Informers: factory})
	if err != nil {
		t.Fatal(err)
	}
	s.forward.port = port
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, udp, tcp) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	return udp.LocalAddr().String()
}

func ask(t *testing.T, network, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(q, server)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// data are the records of an answer without names and times.
func data(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(f[3:], " "))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestNames(t *testing.T) {
	var asked atomic.Int32
	server := serve(t, &asked)
	for _, tc := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string
	}{
		{"web.ns.svc.cluster.local", dns.TypeA, 0, "A 10.96.1.1"},
		{"WEB.ns.SVC.cluster.local", dns.TypeAAAA, 0, "AAAA fd00:96::1"},
		{"web.ns.svc.cluster.local", dns.TypeTXT, 0, ""},
		{"web.ns.svc.cluster.local", dns.TypeSRV, 0, "SRV 0 100 80 web.ns.svc.cluster.local."},
		{"_http._tcp.web.ns.svc.cluster.local", dns.TypeSRV, 0, "SRV 0 100 80 web.ns.svc.cluster.local."},
		{"_http._udp.web.ns.svc.cluster.local", dns.TypeSRV, dns.RcodeNameError, ""},
		{"db.ns.svc.cluster.local", dns.TypeA, 0, "A 10.244.0.2; A 10.244.0.3"},
		{"db.ns.svc.cluster.local", dns.TypeAAAA, 0, ""},
		{"db-0.db.ns.svc.cluster.local", dns.TypeA, 0, "A 10.244.0.2"},
		{"10-244-0-3.db.ns.svc.cluster.local", dns.TypeA, 0, "A 10.244.0.3"},
		{"10-244-0-4.db.ns.svc.cluster.local", dns.TypeA, dns.RcodeNameError, ""},
		{"_http._tcp.db.ns.svc.cluster.local", dns.TypeSRV, 0,
			"SRV 0 50 8080 10-244-0-3.db.ns.svc.cluster.local.; SRV 0 50 8080 db-0.db.ns.svc.cluster.local."},
		{"db-0.db.ns.svc.cluster.local", dns.TypeSRV, 0, "SRV 0 100 8080 db-0.db.ns.svc.cluster.local."},
		{"10-244-0-4.db.ns.svc.cluster.local", dns.TypeSRV, dns.RcodeNameError, ""},
		{"10-244-0-7.bare.ns.svc.cluster.local", dns.TypeSRV, 0, ""},
		{"bare.ns.svc.cluster.local", dns.TypeA, 0, "A 10.244.0.7"},
		{"bare.ns.svc.cluster.local", dns.TypeSRV, 0, ""},
		{"lonely.ns.svc.cluster.local", dns.TypeA, dns.RcodeNameError, ""},
		{"none.ns.svc.cluster.local", dns.TypeA, dns.RcodeNameError, ""},
		{"ns.svc.cluster.local", dns.TypeA, 0, ""},
		{"other.svc.cluster.local", dns.TypeA, dns.RcodeNameError, ""},
		{"cluster.local", dns.TypeNS, 0, "NS ns.dns.cluster.local."},
		{"dns-version.cluster.local", dns.TypeTXT, 0, `TXT "1.1.0"`},
		{"10-244-0-2.ns.pod.cluster.local", dns.TypeA, 0, "A 10.244.0.2"},
		{"fd00--5.ns.pod.cluster.local", dns.TypeAAAA, 0, "AAAA fd00::5"},
		{"nonsense.ns.pod.cluster.local", dns.TypeA, dns.RcodeNameError, ""},
		{"1.1.96.10.in-addr.arpa", dns.TypePTR, 0, "PTR web.ns.svc.cluster.local."},
		{"2.0.244.10.in-addr.arpa", dns.TypePTR, 0, "PTR db-0.db.ns.svc.cluster.local."},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, 0, "PTR web.ns.svc.cluster.local."},
		{"out.ns.svc.cluster.local", dns.TypeA, 0, "A 203.0.113.9; CNAME example.com."},
		{"in.ns.svc.cluster.local", dns.TypeA, 0, "A 10.96.1.1; CNAME web.ns.svc.cluster.local."},
		{"example.com", dns.TypeA, 0, "A 203.0.113.9"},
		{"example.org", dns.TypeA, dns.RcodeNameError, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, network, server, tc.name, tc.kind)
			if got := data(r.Answer); got != tc.want || r.Rcode != tc.rcode {
				t.Errorf("%s %s over %s: %s %q, want %s %q", tc.name, dns.TypeToString[tc.kind], network,
					dns.RcodeToString[r.Rcode], got, dns.RcodeToString[tc.rcode], tc.want)
			}
			if strings.HasSuffix(tc.name, "cluster.local") && len(r.Answer) == 0 && !strings.HasPrefix(data(r.Ns), "SOA") {
				t.Errorf("%s: nothing, and no SOA says for how long", tc.name)
			}
		}
	}
	// example.com was asked for four times and kept; example.org has no SOA by which it could be.
	if n := asked.Load(); n != 3 {
		t.Errorf("the resolver was asked %d times, want 3", n)
	}
}

// An answer that UDP has no room for comes cut short, and whole over TCP.
func TestTruncation(t *testing.T) {
	var asked atomic.Int32
	server := serve(t, &asked)
	for _, tc := range []struct {
		network string
		edns    uint16
		whole   bool
		least   int
	}{{"udp", 0, false, 20}, {"udp", 4096, false, 60}, {"tcp", 0, true, 200}} {
		q := new(dns.Msg)
		q.SetQuestion("many.ns.svc.cluster.local.", dns.TypeA)
		if tc.edns > 0 {
			q.SetEdns0(tc.edns, false)
		}
		r, _, err := (&dns.Client{Net: tc.network, Timeout: 10 * time.Second}).Exchange(q, server)
		if err != nil {
			t.Fatal(err)
		}
		if r.Truncated == tc.whole || len(r.Answer) < tc.least || (r.IsEdns0() != nil) != (tc.edns > 0) {
			t.Errorf("%s with EDNS %d: %d answers, cut short %t, %v", tc.network, tc.edns, len(r.Answer), r.Truncated, r.IsEdns0())
		}
	}
}

func TestCacheIsBoundedAndAges(t *testing.T) {
	a := newAnswers(2)
	now := time.Now()
	put := func(name string, life uint32) answerKey {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: life}, A: net.IPv4(1, 2, 3, 4)}}
		a.put(keyOf(m), m, now)
		return keyOf(m)
	}
	one, two := put("one.", 20), put("two.", 5)
	if m := a.get(one, now.Add(4*time.Second)); m == nil || m.Answer[0].Header().Ttl != 16 {
		t.Errorf("after 4 of 20 seconds: %v", m)
	}
	put("three.", 20)
	if a.get(two, now) != nil {
		t.Error("the least recently used answer is kept beyond the bound")
	}
	if a.get(one, now.Add(20*time.Second)) != nil {
		t.Error("an answer outlives itself")
	}
}

func TestOnlyClientsAreAnswered(t *testing.T) {
	s := &Server{cfg: Config{Address: netip.MustParseAddr("10.96.0.10"), Clients: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}}
	for addr, want := range map[string]bool{"10.244.3.4": true, "10.96.0.10": true, "127.0.0.1": true, "192.0.2.7": false} {
		if got := s.admits(&net.UDPAddr{IP: net.ParseIP(addr), Port: 1234}); got != want {
			t.Errorf("%s is admitted: %t", addr, got)
		}
	}
}

// What is lost on the way to a resolver is asked again.
func TestLostQuestion(t *testing.T) {
	var asked atomic.Int32
	server := serve(t, &asked)
	if r := ask(t, "udp", server, "lost.example.org", dns.TypeA); r.Rcode != dns.RcodeNameError || asked.Load() != 2 {
		t.Errorf("%s after %d questions", dns.RcodeToString[r.Rcode], asked.Load())
	}
}
