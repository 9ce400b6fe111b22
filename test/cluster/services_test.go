package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nettest"
)

// patience ends a wait for what is not going to happen.
const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// get asks from the machine, by a connection of its own.
func (m *machine) get(address string, patience time.Duration) (answer string, err error) {
	err = m.inside(func() error {
		c, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", address); err != nil {
			return err
		}
		a, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		answer = strings.TrimSpace(string(b))
		return err
	})
	return answer, err
}

// until looks again whenever the rules of the machine change, until there is no error.
func (m *machine) until(what string, look func() error) {
	m.t.Helper()
	if m.rules == nil {
		m.rules = nettest.FollowRulesIn(m.t, int(m.ns))
	}
	m.rules.Until(m.name+": "+what, look)
}

// answered waits until an address gives, to the machine itself, exactly these answers, each of them at some time.
func (m *machine) answered(address string, want ...string) {
	m.t.Helper()
	slices.Sort(want)
	m.until("answers of "+address, func() error {
		got := map[string]bool{}
		for range 40 * len(want) {
			a, err := m.get(address, 30*time.Second)
			if err != nil {
				return err
			}
			if !slices.Contains(want, a) {
				return fmt.Errorf("the answer is %q", a)
			}
			if got[a] = true; len(got) == len(want) && len(want) > 1 {
				return nil
			}
		}
		if len(got) < len(want) {
			return fmt.Errorf("the answers are only %v", got)
		}
		return nil
	})
}

// lookup asks the DNS server on the machine for the addresses of a name.
func (m *machine) lookup(server, name string) (addresses []string, err error) {
	return m.ask(server, name, dns.TypeA)
}

// ask asks the DNS server on the machine for addresses (A, AAAA) or names (PTR).
func (m *machine) ask(server, name string, kind uint16) (answers []string, err error) {
	err = m.inside(func() error {
		c := dns.Client{Timeout: 30 * time.Second}
		if m.ip != "" {
			c.Dialer = &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(m.ip)}}
		}
		a, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, kind), net.JoinHostPort(server, "53"))
		if err != nil {
			return err
		}
		for _, r := range a.Answer {
			switch r := r.(type) {
			case *dns.A:
				answers = append(answers, r.A.String())
			case *dns.AAAA:
				answers = append(answers, r.AAAA.String())
			case *dns.PTR:
				answers = append(answers, r.Ptr)
			}
		}
		return nil
	})
	slices.Sort(answers)
	return answers, err
}

const webServices = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"NodePort","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web-headless"},"spec":{"clusterIP":"None","selector":{"app":"web"},"ports":[{"port":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"local"},"spec":{"type":"NodePort","externalTrafficPolicy":"Local","selector":{"on":"three"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"host"},"spec":{"type":"NodePort","selector":{"host":"three"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"host","labels":{"host":"three"}},"spec":{"nodeName":"three","hostNetwork":true,"terminationGracePeriodSeconds":0,
"containers":[{"name":"web","image":"peapod.local/hello:latest","env":[{"name":"POD_NAME","value":"three"}]}]}}]}`

// services lead from every node, and from every Pod, to the Pods of all nodes.
func services(w *world) {
	file := filepath.Join(w.TempDir(), "services.json")
	must(w.T, os.WriteFile(file, []byte(webServices), 0o600))
	w.kubectl("apply", "-f", file)
	w.kubectl("label", "pod", "on-three", "on=three")
	of := func(service, path string) string { return w.kubectl("get", "service", service, "-o", "jsonpath="+path) }
	cluster, node, local := of("web", "{.spec.clusterIP}"), of("web", "{.spec.ports[0].nodePort}"), of("local", "{.spec.ports[0].nodePort}")
	host, machines := of("host", "{.spec.ports[0].nodePort}"), w.machines()
	all := []string{greeting("on-one"), greeting("on-two"), greeting("on-three")}
	for _, m := range machines {
		m.answered(net.JoinHostPort(cluster, "80"), all...)
		m.answered(net.JoinHostPort("127.0.0.1", node), all...)
		for _, other := range machines {
			m.answered(net.JoinHostPort(other.ip, node), all...)
		}
		// From a node itself a policy of Local counts for others' clients alone.
		m.answered(net.JoinHostPort(m.ip, local), greeting("on-three"))
		// A Pod on another node's network is reached from a node's address, and not from loopback.
		m.answered(net.JoinHostPort(m.ip, host), greeting("three"))
		if got, err := m.get(net.JoinHostPort("127.0.0.1", host), 30*time.Second); m == w.third && got != greeting("three") || m != w.third && !errors.Is(err, unix.ECONNREFUSED) {
			w.Errorf("%s: a hostNetwork Pod of node three answers on loopback %q, %v", m.name, got, err)
		}
	}
	if got, err := w.server.get(net.JoinHostPort(w.third.ip, local), 30*time.Second); got != greeting("on-three") {
		w.Errorf("the node with the Pod answers %q, %v", got, err)
	}
	if got, err := w.server.get(net.JoinHostPort(w.second.ip, local), time.Second); !os.IsTimeout(err) {
		w.Errorf("a node without a Pod is not silent: %q, %v", got, err)
	}
	addresses := strings.Fields(w.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"))
	slices.Sort(addresses)
	server := strings.Fields(w.kubectl("exec", "on-one", "-c", "client", "--", "grep", "nameserver", "/etc/resolv.conf"))[1]
	for _, m := range machines {
		if got, err := m.lookup(server, "web-headless.default.svc.cluster.local."); !slices.Equal(got, addresses) {
			w.Errorf("%s: the headless Service has the addresses %v, want %v: %v", m.name, got, addresses, err)
		}
	}
	for _, pod := range []string{"on-one", "on-two", "on-three"} {
		// A client of a headless Service picks one of its addresses by rules of its own.
		if got := w.kubectl("exec", pod, "-c", "client", "--", "curl", "-sSm30", "http://web-headless:8080/"); !slices.Contains(all, strings.TrimSpace(got)) {
			w.Errorf("%s is answered %q by the headless Service", pod, got)
		}
		for _, name := range []string{"web", "web.default.svc.cluster.local"} {
			out := w.kubectl("exec", pod, "-c", "client", "--", "sh", "-c", "for i in $(seq 60); do curl -sSm30 http://"+name+"/; done")
			got := strings.Split(strings.TrimSpace(out), "\n")
			slices.Sort(got)
			want := slices.Sorted(slices.Values(all))
			if got = slices.Compact(got); !slices.Equal(got, want) {
				w.Errorf("%s is answered by %v at %s, want %v", pod, got, name, want)
			}
		}
	}
	w.kubectl("delete", "-f", file)
	for _, m := range machines {
		m.until("no answer of the Service that is gone", func() error {
			if a, err := m.get(net.JoinHostPort(cluster, "80"), 30*time.Second); err == nil {
				return fmt.Errorf("the answer is %q", a)
			}
			return nil
		})
	}
}

const laterServices = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"later"},"spec":{"cidrs":["203.0.113.0/24"]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"later"},"spec":{"clusterIP":"203.0.113.10","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}}]}`

// laterRange has every node lead to Services of a range that joins later, until it is gone.
func laterRange(w *world) {
	file := filepath.Join(w.TempDir(), "later.json")
	must(w.T, os.WriteFile(file, []byte(laterServices), 0o600))
	w.kubectl("apply", "-f", file)
	all := []string{greeting("on-one"), greeting("on-two"), greeting("on-three")}
	for _, m := range w.machines() {
		m.answered("203.0.113.10:80", all...)
		if got, err := m.get("203.0.113.11:80", 30*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			w.Errorf("%s: an address that no Service has answers %q, %v", m.name, got, err)
		}
	}
	for _, pod := range []string{"on-one", "on-two", "on-three"} {
		if got := w.kubectl("exec", pod, "-c", "client", "--", "curl", "-sSm30", "http://203.0.113.10/"); !slices.Contains(all, strings.TrimSpace(got)) {
			w.Errorf("%s is answered %q", pod, got)
		}
	}
	w.kubectl("delete", "service", "later")
	w.kubectl("delete", "servicecidr", "later", "--timeout=90s")
}

const balanced = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"balanced"},"spec":{"type":"LoadBalancer","selector":{"app":"web"},"ports":[{"port":8099,"targetPort":8080}]}}`

// balancer has a load balancer leave out the node on which somebody else has its port, for as long as that is so.
func balancer(w *world) {
	var other net.Listener
	must(w.T, w.second.inside(func() (err error) {
		other, err = net.Listen("tcp", ":8099")
		return err
	}))
	file := filepath.Join(w.TempDir(), "balanced.json")
	must(w.T, os.WriteFile(file, []byte(balanced), 0o600))
	w.kubectl("apply", "-f", file)
	status := w.server.kubectlTalk("get", "service", "balanced", "--watch", "-o", `jsonpath={.status.loadBalancer.ingress[*].ip}{"\n"}`)
	status.hears(w.server.ip + " " + w.third.ip)
	all := []string{greeting("on-one"), greeting("on-two"), greeting("on-three")}
	w.second.answered(w.third.ip+":8099", all...)
	events := w.server.kubectlTalk("get", "events", "--watch", "--field-selector=reason=HostPortInUse,involvedObject.name=balanced", "-o", `jsonpath={.message}{"\n"}`)
	if got := events.next(); !strings.HasPrefix(got, "A process of node two listens on TCP port 8099 at "+w.second.ip+": ") {
		w.Errorf("it is said that %q", got)
	}
	events.hangUp()
	must(w.T, other.Close())
	status.hears(w.server.ip + " " + w.second.ip + " " + w.third.ip)
	status.hangUp()
	w.third.answered(w.second.ip+":8099", all...)
	if got := w.kubectl("get", "nodes", "-o", `jsonpath={.items[*].metadata.annotations.peapod\.io/refused-ports}`); got != "" {
		w.Errorf("the nodes still refuse %q", got)
	}
	w.kubectl("delete", "-f", file)
}
