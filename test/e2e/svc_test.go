package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/network/nettest"
)

// pages is a Service of the web Pods with a label.
func pages(name, spec string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {selector: {app: pages}, ports: [{name: http, port: 80}]%s}
---
`, name, spec)
}

// pageOf is a web Pod behind such Services.
func pageOf(name, more string) string {
	return strings.Replace(web(name, ""), "metadata: {name: "+name+"}\nspec:", "metadata: {name: "+name+", labels: {app: pages}}\nspec:"+more, 1)
}

// endpoints waits until a Service has n ready addresses.
func (s *space) endpoints(service string, n int) {
	s.t.Helper()
	var conditions []string
	for i := range n {
		conditions = append(conditions, fmt.Sprintf("{.endpoints[%d].conditions.ready}=true", i))
	}
	for _, c := range conditions {
		s.kubectl("wait", "endpointslice", "-l", "kubernetes.io/service-name="+service, "--for=jsonpath="+c, "--timeout=60s")
	}
}

// deserted waits until a Service has no endpoint at all.
func (s *space) deserted(service string) {
	s.t.Helper()
	ctx := within(s.t, longest)
	options := metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service}
	list, err := s.client.DiscoveryV1().EndpointSlices(s.name).List(ctx, options)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range list.Items {
		if len(list.Items[i].Endpoints) == 0 {
			return
		}
	}
	options.ResourceVersion = list.ResourceVersion
	w, err := s.client.DiscoveryV1().EndpointSlices(s.name).Watch(ctx, options)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if slice, ok := e.Object.(*discoveryv1.EndpointSlice); ok && len(slice.Endpoints) == 0 {
			return
		}
	}
	s.t.Fatalf("service %s keeps its endpoints", service)
}

// host gets a page from this machine.
func host(t *testing.T, address string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(within(t, longest), http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	a, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err
	}
	return a.Body.Close()
}

// reached waits until this machine gets a page from a Service, whose rules come after its endpoints.
func reached(t *testing.T, address string) {
	t.Helper()
	nettest.FollowRules(t).Until("this machine reaches "+address, func() error { return host(t, address) })
}

func TestServiceReaches(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(pageOf("one", "") + web("client", "") + pages("page", ", type: NodePort"))
	s.ready("one", "client")
	s.endpoints("page", 1)
	ip := s.kubectl("get", "service", "page", "-o", "jsonpath={.spec.clusterIP}")
	reached(t, ip)
	port := s.kubectl("get", "service", "page", "-o", "jsonpath={.spec.ports[0].nodePort}")
	node := s.kubectl("get", "pod", "one", "-o", "jsonpath={.status.hostIP}")
	for _, url := range []string{ip, "page", "page." + s.name, "page." + s.name + ".svc.cluster.local", net.JoinHostPort(node, port)} {
		contains(t, "client to "+url, s.curl("client", url), welcome)
		// The Pod reaches itself, too.
		contains(t, "one to "+url, s.curl("one", url), welcome)
	}
	for _, address := range []string{ip, net.JoinHostPort("127.0.0.1", port), net.JoinHostPort(node, port)} {
		if err := host(t, address); err != nil {
			t.Errorf("this machine to %s: %v", address, err)
		}
	}
	s.kubectl("delete", "pod", "one")
	s.deserted("page")
	if err := host(t, ip); err == nil {
		t.Error("a Service without endpoints answers")
	}
}

func TestServiceHeadless(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(pageOf("one", "\n  hostname: first\n  subdomain: pages") + web("client", "") + pages("pages", ", clusterIP: None"))
	s.ready("one", "client")
	s.endpoints("pages", 1)
	for _, name := range []string{"pages", "first.pages"} {
		contains(t, name, s.curl("client", name), welcome)
	}
}

// A Pod that is not ready is behind a Service that publishes it all the same, and behind no other.
func TestServiceOfUnreadyPods(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(pageOf("one", "\n  readinessGates: [{conditionType: example.com/never}]") + pages("page", "") + pages("early", ", publishNotReadyAddresses: true"))
	s.kubectl("wait", "--for=condition=ContainersReady", "pod/one", "--timeout=60s")
	s.endpoints("early", 1)
	ip := func(service string) string {
		return s.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
	}
	reached(t, ip("early"))
	contains(t, "by name", s.curl("one", "early"), welcome)
	ready := s.kubectl("get", "endpointslice", "-l", "kubernetes.io/service-name=page", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
	equal(t, "readiness of the other Service's endpoint", ready, "false")
	if err := host(t, ip("page")); err == nil {
		t.Error("a Pod that is not ready answers")
	}
}

// Names are more than addresses: other names, ports, and the way back.
func TestServiceNames(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	domain := s.name + ".svc.cluster.local"
	s.apply(pageOf("one", "\n  hostname: first\n  subdomain: pages") + pages("page", "") + pages("pages", ", clusterIP: None") + fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: page.%s}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: busybox, command: [sleep, '1000000']}]
`, domain))
	s.ready("one", "asker")
	s.endpoints("page", 1)
	s.endpoints("pages", 1)
	nslookup := func(args ...string) string {
		t.Helper()
		return s.kubectl(append([]string{"exec", "asker", "--", "nslookup"}, args...)...)
	}
	contains(t, "ExternalName", s.curl("one", "elsewhere"), welcome)
	contains(t, "CNAME", nslookup("elsewhere."+domain), "canonical name = page."+domain)
	ip := s.kubectl("get", "service", "page", "-o", "jsonpath={.spec.clusterIP}")
	contains(t, "A", nslookup("page."+domain), ip)
	contains(t, "SRV", nslookup("-type=srv", "_http._tcp.page."+domain), " 80 page."+domain)
	contains(t, "SRV of a headless Service", nslookup("-type=srv", "_http._tcp.pages."+domain), " 80 first.pages."+domain)
	contains(t, "PTR of a cluster IP", nslookup(ip), "name = page."+domain)
	contains(t, "PTR of a Pod", nslookup(s.get("one").Status.PodIP), "name = first.pages."+domain)
}

// The init container that waits for a Service's name ends once the Service is there.
func TestServiceAwaitedByInit(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`apiVersion: v1
kind: Pod
metadata: {name: waiter}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: wait
    image: busybox
    command: [sh, -c, 'until nslookup myservice.$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace).svc.cluster.local; do echo waiting; sleep 1; done']
  containers: [{name: main, image: busybox, command: [sleep, '1000000']}]
`)
	s.kubectl("wait", "--for=jsonpath={.status.initContainerStatuses[0].state.running}", "pod/waiter", "--timeout=60s")
	s.start("logs", "-f", "waiter", "-c", "wait").until("^waiting$")
	s.kubectl("create", "service", "clusterip", "myservice", "--tcp=80:80")
	s.ready("waiter")
}

// A Pod reaches the API by its name and is who its token says.
func TestServiceOfTheAPI(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(web("client", ""))
	s.ready("client")
	answer := s.kubectl("exec", "client", "-c", "client", "--", "sh", "-c", `cd /var/run/secrets/kubernetes.io/serviceaccount &&
		curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" -H 'Content-Type: application/json' \
		-d '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}' \
		https://kubernetes.default/apis/authentication.k8s.io/v1/selfsubjectreviews`)
	contains(t, "who", answer, "system:serviceaccount:"+s.name+":default")
}
