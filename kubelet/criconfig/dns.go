package criconfig

import (
	"bufio"
	"io"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits that glibc and Kubernetes put on a resolv.conf.
const (
	maxServers       = 3
	maxSearches      = 32
	maxSearchesChars = 2048
)

// Resolv is a resolv.conf.
type Resolv struct{ Servers, Searches, Options []string }

// ParseResolv reads a resolv.conf.
func ParseResolv(r io.Reader) (Resolv, error) {
	var out Resolv
	s := bufio.NewScanner(r)
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			out.Servers = append(out.Servers, f[1])
		case "search", "domain":
			out.Searches = nil
			for _, d := range f[1:] {
				if d != "." {
					d = strings.TrimSuffix(d, ".")
				}
				out.Searches = append(out.Searches, d)
			}
		case "options":
			out.Options = f[1:]
		}
	}
	return out, s.Err()
}

// OnlyLoopback says whether no server can be reached from a Pod.
func (r Resolv) OnlyLoopback() bool { return len(r.Servers) > 0 && len(r.reachable()) == 0 }

// reachable are the servers that are not loopback addresses: a Pod asking
// those would ask itself.
func (r Resolv) reachable() []string {
	var out []string
	for _, s := range r.Servers {
		if a, err := netip.ParseAddr(s); err == nil && a.IsLoopback() {
			continue
		}
		out = append(out, s)
	}
	return out
}

// DNS is the DNS configuration of a Pod. warnings are texts of
// DNSConfigForming events.
func DNS(pod *v1.Pod, node *Node) (cfg *runtimeapi.DNSConfig, warnings []Warning) {
	host := node.HostResolv
	if !pod.Spec.HostNetwork {
		host.Servers = host.reachable()
	}
	out := Resolv{}
	switch policy(pod) {
	case v1.DNSNone:
	case v1.DNSClusterFirst:
		if len(node.ClusterDNS) == 0 {
			out = host // a cluster without DNS; the kubelet says so once, when it starts
			break
		}
		out.Servers = append([]string(nil), node.ClusterDNS...)
		svc := "svc." + node.ClusterDomain
		out.Searches = append([]string{pod.Namespace + "." + svc, svc, node.ClusterDomain}, host.Searches...)
		out.Options = []string{"ndots:5"}
	default:
		out = host
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Servers = append(append([]string(nil), out.Servers...), c.Nameservers...)
		out.Searches = append(append([]string(nil), out.Searches...), c.Searches...)
		out.Options = mergeOptions(out.Options, c.Options)
	}
	out.Servers, out.Searches = unique(out.Servers), unique(out.Searches)
	if len(out.Servers) > maxServers {
		out.Servers = out.Servers[:maxServers]
		warnings = append(warnings, Warning{"DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(out.Servers, " ")})
	}
	if cut := fit(out.Searches); len(cut) < len(out.Searches) {
		out.Searches = cut
		warnings = append(warnings, Warning{"DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(cut, " ")})
	}
	return &runtimeapi.DNSConfig{Servers: out.Servers, Searches: out.Searches, Options: out.Options}, warnings
}

// policy is the DNS policy in effect: with the host's network, ClusterFirst
// means the host's DNS unless the Pod insists.
func policy(pod *v1.Pod) v1.DNSPolicy {
	switch pod.Spec.DNSPolicy {
	case v1.DNSNone, v1.DNSDefault:
		return pod.Spec.DNSPolicy
	case v1.DNSClusterFirstWithHostNet:
		return v1.DNSClusterFirst
	default:
		if pod.Spec.HostNetwork {
			return v1.DNSDefault
		}
		return v1.DNSClusterFirst
	}
}

// mergeOptions adds options; one of the same name replaces.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	out := append([]string(nil), base...)
	for _, o := range more {
		text := o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		replaced := false
		for i := range out {
			if name, _, _ := strings.Cut(out[i], ":"); name == o.Name {
				out[i], replaced = text, true
			}
		}
		if !replaced {
			out = append(out, text)
		}
	}
	return out
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func fit(searches []string) []string {
	chars := 0
	for i, s := range searches {
		chars += len(s)
		if i > 0 {
			chars++
		}
		if i >= maxSearches || chars > maxSearchesChars {
			return searches[:i]
		}
	}
	return searches
}
