package e2e

import (
	"fmt"
	"os"
	"testing"
)

// Services get addresses of a range that joins later, each address is told of by an object, and the range goes with the last.
func TestServiceCIDRs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	// Addresses for documentation, which nothing on this machine has.
	cidr := fmt.Sprintf("203.0.113.%d/28", os.Getpid()%16*16)
	ip := func(n int) string { return fmt.Sprintf("203.0.113.%d", os.Getpid()%16*16+n) }
	s.apply(fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: %s}, spec: {cidrs: [%s]}}\n", s.name, cidr))
	t.Cleanup(func() { s.try("delete", "servicecidr", s.name, "--ignore-not-found", "--wait=false") })
	s.kubectl("wait", "servicecidr", s.name, "--for=condition=Ready", "--timeout=60s")
	contains(t, "the range", s.kubectl("get", "servicecidr", s.name, "--no-headers"), cidr)
	contains(t, "the default range's columns", s.kubectl("get", "servicecidrs"), "NAME", "CIDRS", "AGE", "kubernetes")

	s.apply(pageOf("one", "") + web("client", "") + pages("page", ", clusterIP: "+ip(5)) +
		fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: %s}, spec: {parentRef: {group: example.com, resource: gateways, name: g}}}\n", ip(6)))
	t.Cleanup(func() { s.try("delete", "ipaddress", ip(6)) })
	contains(t, "addresses", s.kubectl("get", "ip", ip(5), ip(6)), "NAME", "PARENTREF", "services/"+s.name+"/page", "gateways.example.com/g")
	for address, text := range map[string]string{
		ip(5): "provided IP is already allocated", ip(6): "provided IP is already allocated", "198.51.100.1": "the provided network does not match the current range",
	} {
		got := s.try("create", "service", "clusterip", "other", "--tcp=80", "--clusterip="+address)
		got.want(t, "a Service at "+address, 1, "failed to allocate IP "+address+": "+text)
	}
	s.ready("one", "client")
	s.endpoints("page", 1)
	reached(t, ip(5))
	contains(t, "a Pod", s.curl("client", ip(5)), welcome)

	s.kubectl("delete", "servicecidr", s.name, "--wait=false")
	s.kubectl("wait", "servicecidr", s.name, "--for=condition=Ready=False", "--timeout=60s")
	contains(t, "why it stays", s.kubectl("get", "servicecidr", s.name, "-o", "jsonpath={.status.conditions[0].reason} {.metadata.finalizers}"),
		"Terminating", "networking.k8s.io/service-cidr-finalizer")
	contains(t, "a Pod, meanwhile", s.curl("client", ip(5)), welcome)
	s.kubectl("delete", "service", "page")
	s.kubectl("wait", "servicecidr", s.name, "--for=delete", "--timeout=90s")
	s.try("get", "ip", ip(5)).want(t, "the address", 1, "not found")
}
