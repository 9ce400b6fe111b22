package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

// The Pods of the small cluster, and who is none.
var places = map[string]string{
	"x/web": "10.244.0.2", "x/db": "10.244.0.3", "y/web": "10.244.1.2", "y/client": "10.244.0.4",
	"node2": "10.244.1.1", "world": "203.0.113.5", "net": "203.0.113.130",
}

// in6 is the address of the same place in IPv6.
func in6(a string) string {
	if rest, ok := strings.CutPrefix(a, "10.244."); ok {
		return "fd00:244:" + strings.Replace(rest, ".", "::", 1)
	}
	return "2001:db8::" + a[strings.LastIndex(a, ".")+1:]
}

// TestTrace: of the probes, which are all from one place to another at tcp 8080 where nothing else is said, these get through.
func TestTrace(t *testing.T) {
	const deny = "podSelector: {}"
	for _, tc := range []struct {
		name     string
		policies []string // in namespace x
		probes   string
		want     string
	}{
		{"no policy", nil, "x/web>x/db world>x/web", "x/web>x/db world>x/web"},
		{"default deny of ingress", []string{deny}, "y/client>x/web world>x/web x/web>x/web x/web>y/client x/web>world", "x/web>x/web x/web>y/client x/web>world"},
		{"default deny of egress", []string{"{podSelector: {}, policyTypes: [Egress]}"}, "y/client>x/web x/web>x/db x/web>y/web x/web>world x/web>x/web", "y/client>x/web x/web>x/web"},
		{"of both", []string{"{podSelector: {}, policyTypes: [Ingress, Egress]}"}, "y/client>x/web x/web>y/web x/web>x/db y/client>y/web", "y/client>y/web"},
		{"others are not selected", []string{"podSelector: {matchLabels: {app: web}}"}, "y/client>x/web y/client>x/db", "y/client>x/db"},
		{"Pods of the namespace", []string{"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}"}, "x/web>x/db y/web>x/db x/db>x/web", "x/web>x/db"},
		{"Pods of a namespace", []string{"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}"}, "x/web>x/db y/web>x/db y/client>x/db world>x/db", "y/web>x/db y/client>x/db"},
		{"some Pods of a namespace", []string{"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: web}}}]}]}"}, "x/web>x/db y/web>x/db y/client>x/db", "y/web>x/db"},
		{"either", []string{"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: web}}}]}]}"}, "x/web>x/db y/client>x/db x/db>x/web", "x/web>x/db y/client>x/db"},
		{"all namespaces are Pods", []string{"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"}, "y/web>x/db world>x/db node2>x/db", "y/web>x/db"},
		{"a block", []string{"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.128/25]}}]}]}"}, "world>x/web net>x/web y/client>x/web", "world>x/web"},
		{"a block of IPv6", []string{"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '2001:db8::/32'}}]}]}"}, "world>x/web world>x/web@6", "world>x/web@6"},
		{"a block that is Pods", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.1.0/24, except: [10.244.1.1/32]}}]}]}"}, "x/web>y/web x/web>node2 x/web>x/db", "x/web>y/web"},
		{"what one excepts another allows", []string{
			"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [203.0.113.128/25]}}, {ipBlock: {cidr: 203.0.113.130/32}}]}]}"}, "net>x/web world>x/web", "net>x/web world>x/web"},
		{"a port", []string{"{podSelector: {}, ingress: [{ports: [{port: 8080}]}]}"}, "world>x/web world>x/web:tcp81 world>x/web:udp8080", "world>x/web"},
		{"ports", []string{"{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}, {port: 53, protocol: UDP}]}]}"}, "world>x/web:tcp79 world>x/web:tcp80 world>x/web:tcp90 world>x/web:tcp91 world>x/web:udp53 world>x/web:udp80", "world>x/web:tcp80 world>x/web:tcp90 world>x/web:udp53"},
		{"a protocol", []string{"{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}"}, "world>x/web:sctp1 world>x/web:tcp1 world>x/web:icmp0", "world>x/web:sctp1"},
		{"no port, all protocols", []string{"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"}, "y/web>x/web:icmp0 world>x/web:icmp0", "y/web>x/web:icmp0"},
		{"peers and ports", []string{"{podSelector: {}, ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 203.0.113.0/25}}], ports: [{port: 80}, {port: 81}]}]}"}, "x/web>x/db:tcp81 world>x/db:tcp80 world>x/db:tcp82 net>x/db:tcp80", "x/web>x/db:tcp81 world>x/db:tcp80"},
		{"a named port", []string{"{podSelector: {}, ingress: [{ports: [{port: http}]}]}"}, "world>x/web world>x/db world>x/db:tcp5432 world>x/web:udp8080", "world>x/web world>x/db:tcp5432"},
		{"a named port of another protocol", []string{"{podSelector: {}, ingress: [{ports: [{port: dns, protocol: UDP}, {port: dns}]}]}"}, "world>x/web:udp53 world>x/web:tcp53", "world>x/web:udp53"},
		{"a named port of others", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"}, "x/web>y/web x/web>y/web:tcp9090 x/web>x/db:tcp5432 x/web>world", "x/web>y/web:tcp9090 x/web>x/db:tcp5432"},
		{"a named port of some", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: b}}}], ports: [{port: http}]}]}"}, "x/web>y/web:tcp9090 x/web>x/db:tcp5432", "x/web>y/web:tcp9090"},
		{"policies add", []string{deny, "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}", "{podSelector: {}, ingress: [{ports: [{port: 81}]}]}"}, "x/db>x/web world>x/web world>x/web:tcp81", "x/db>x/web world>x/web:tcp81"},
		{"one that allows all", []string{deny, "{podSelector: {}, ingress: [{}]}"}, "world>x/web y/client>x/web:icmp0", "world>x/web y/client>x/web:icmp0"},
		{"either side denies", []string{"{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}", "{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"}, "x/web>x/db y/client>x/db", "y/client>x/db"},
		{"expressions", []string{"{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db]}]}}"}, "world>x/web world>x/db", "world>x/db"},
	} {
		o := small()
		for i, spec := range tc.policies {
			o.policies = append(o.policies, policyOf(t, "x", fmt.Sprint(i), spec))
		}
		s := o.stateOf(t)
		table := s.desired.table("t")
		var got []string
		for _, probe := range strings.Fields(tc.probes) {
			if send(t, table, probe) {
				got = append(got, probe)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: through came %q, want %q", tc.name, got, tc.want)
		}
	}
}

// send sends what a probe "from>to:tcp80@6" says.
func send(t *testing.T, table *nft.Table, probe string) bool {
	t.Helper()
	path, six := strings.CutSuffix(probe, "@6")
	path, at, _ := strings.Cut(path, ":")
	protocol, port := byte(6), uint16(8080)
	for name, number := range map[string]byte{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1} {
		if digits, ok := strings.CutPrefix(at, name); ok {
			protocol = number
			if _, err := fmt.Sscan(digits, &port); err != nil {
				t.Fatal(err)
			}
		}
	}
	from, to, _ := strings.Cut(path, ">")
	src, dst := places[from], places[to]
	if six {
		src, dst = in6(src), in6(dst)
	}
	return forwarded(t, table, netip.MustParseAddr(src), netip.MustParseAddr(dst), protocol, port)
}

// What has begun goes on, whatever the rules say.
func TestTraceEstablished(t *testing.T) {
	o := small()
	o.policies = append(o.policies, policyOf(t, "x", "deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"))
	table := o.stateOf(t).desired.table("t")
	for _, chain := range []string{egress.String(), ingress.String()} {
		p := &nettest.Packet{Src: netip.MustParseAddr(places["x/web"]), Dst: netip.MustParseAddr(places["x/db"]), Protocol: 6, Port: 80}
		if v := p.Walk(t, table, chain); v != "drop" {
			t.Errorf("chain %s says %q to a new connection", chain, v)
		}
		if p.Begun = true; p.Walk(t, table, chain) != "accept" {
			t.Errorf("chain %s does not let through what has begun", chain)
		}
	}
}

// specs are policies of all sorts, for random changes.
var specs = []string{
	"{podSelector: {}}", "{podSelector: {}, policyTypes: [Egress]}", "{podSelector: {}, ingress: [{}]}",
	"{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}",
	"{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}], ports: [{port: 80}, {port: http}]}]}",
	"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: c}}}], ports: [{port: http}]}]}",
	"{podSelector: {matchLabels: {app: c}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80, endPort: 90}]}], egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.0/24]}}, {ipBlock: {cidr: 'fd00::/8'}}]}]}",
	"{podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}]}]}",
	"{podSelector: {matchLabels: {app: a}}, egress: [{to: [{podSelector: {matchLabels: {app: a}}}]}], policyTypes: [Egress]}",
}

// churn is a cluster in which anything changes at any time, and the state that follows it.
type churn struct {
	*objects
	r *rand.Rand
	s *state
}

func (c *churn) pick(all ...string) string { return all[c.r.IntN(len(all))] }

// step changes one thing.
func (c *churn) step(t testing.TB) {
	t.Helper()
	namespace, number := c.pick("x", "y", "z"), c.r.IntN(5)
	switch c.r.IntN(5) {
	case 0, 1: // a Pod comes or changes, perhaps as another of its name elsewhere
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(number)}
		c.pods = slices.DeleteFunc(c.pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name.Name })
		offset := map[string]int{"x": 10, "y": 20, "z": 30}[namespace]
		p := pod(namespace, name.Name, c.pick(here, here, "n2"), offset+number, map[string]string{"app": c.pick("a", "b", "c")}, named("http", corev1.ProtocolTCP, int32(80+c.r.IntN(2))))
		c.pods = append(c.pods, p)
		c.s.setPod(name, subjectOf(p, here))
	case 2: // a Pod goes
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(number)}
		c.pods = slices.DeleteFunc(c.pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name.Name })
		c.s.setPod(name, nil)
	case 3: // a policy comes, changes or goes
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(number % 3)}
		c.policies = slices.DeleteFunc(c.policies, func(p *networkingv1.NetworkPolicy) bool { return p.Namespace == namespace && p.Name == name.Name })
		if c.r.IntN(3) == 0 {
			c.s.setPolicy(name, nil)
			return
		}
		p := policyOf(t, namespace, name.Name, c.pick(specs...))
		c.policies = append(c.policies, p)
		setPolicy(t, c.s, p)
	case 4: // a namespace gets other labels
		set := labels.Set{"team": c.pick("a", "b")}
		c.namespaces[namespace] = set
		c.s.setNamespace(namespace, set)
	}
}

// check sends from everybody to everybody.
func (c *churn) check(t *testing.T, table *nft.Table) {
	t.Helper()
	var all []netip.Addr
	for _, p := range c.pods {
		for _, ip := range p.Status.PodIPs {
			all = append(all, netip.MustParseAddr(ip.IP))
		}
	}
	all = append(all, netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("2001:db8::5"))
	for _, src := range all {
		for _, dst := range all {
			if src.Is6() != dst.Is6() {
				continue
			}
			for _, port := range []uint16{79, 80, 81} {
				want := c.permitted(src, dst, corev1.ProtocolTCP, int32(port))
				if got := forwarded(t, table, src, dst, 6, port); got != want {
					t.Fatalf("%s to %s port %d passes: %t, want %t", src, dst, port, got, want)
				}
			}
		}
	}
}

// TestChurn: whatever changes, in whatever order, the rules are what the objects say, each change of the kernel's table leads from
// what it has to what is desired, and the kernel takes it. In the end nothing is left.
func TestChurn(t *testing.T) {
	for seed := range uint64(6) {
		c := &churn{objects: &objects{namespaces: map[string]labels.Set{}}, r: rand.New(rand.NewPCG(seed, 7)), s: newState(both)}
		for _, name := range []string{"x", "y", "z"} {
			c.namespaces[name] = labels.Set{}
			c.s.setNamespace(name, labels.Set{})
		}
		const name = "policy_test"
		var a nft.Applier
		nettest.Must(t, a.Apply(c.s.desired.table(name)))
		c.s.desired.commit()
		kernel := newDesired(both)
		follow := func() {
			t.Helper()
			c.s.settle()
			u := c.s.desired.pending()
			nettest.Must(t, a.Update(name, u))
			update(&kernel, u)
			c.s.desired.commit()
			sameAsKernel(t, c.s, name)
		}
		for range 150 {
			for range 1 + c.r.IntN(4) {
				c.step(t)
			}
			follow()
			c.check(t, kernel.table(name))
		}
		for _, p := range c.policies {
			c.s.setPolicy(types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, nil)
		}
		follow()
		if n := len(c.s.desired.chains) + len(c.s.held) + len(c.s.uses.groups) + len(c.s.uses.names) + len(c.s.uses.rules) + len(c.s.uses.near) + len(c.s.has); n > 0 || !c.s.desired.idle() {
			t.Errorf("without policies %d things are left", n)
		}
		nettest.Must(t, a.Delete(name))
	}
}

// update changes a table as the kernel does.
func update(d *desired, u nft.Update) {
	for _, chain := range u.Come {
		d.chains[chain.Name] = chain
	}
	for _, delta := range u.Elements {
		for _, key := range delta.Gone {
			delete(d.sets[delta.Set], key)
		}
		maps.Copy(d.sets[delta.Set], delta.Come)
	}
	for _, name := range u.Gone {
		delete(d.chains, name)
	}
}

// sameAsKernel compares what the kernel has with what is desired.
func sameAsKernel(t *testing.T, s *state, name string) {
	t.Helper()
	counts, err := nettest.Elements(name)
	nettest.Must(t, err)
	want := map[string]int{"chains": len(s.desired.chains) + int(directions)}
	for set, elements := range s.desired.sets {
		want[set] = len(elements)
	}
	if !maps.Equal(counts, want) {
		t.Fatalf("the kernel has %v, want %v", counts, want)
	}
}
