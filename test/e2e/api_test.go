package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

func TestPagingAndWatching(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	maps := s.client.CoreV1().ConfigMaps(s.name)
	make := func(name string) *corev1.ConfigMap {
		t.Helper()
		m, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"paged": "yes"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for i := range 25 {
		make(fmt.Sprintf("m-%02d", i))
	}
	var names []string
	opts := metav1.ListOptions{Limit: 10, LabelSelector: "paged"}
	var first *corev1.ConfigMapList
	for page := 0; ; page++ {
		l, err := maps.List(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = l
			make("m-99-late") // No page shows what came after the first.
		}
		if l.ResourceVersion != first.ResourceVersion {
			t.Errorf("page %d is of revision %s, the first of %s", page, l.ResourceVersion, first.ResourceVersion)
		}
		for _, m := range l.Items {
			names = append(names, m.Name)
		}
		if opts.Continue = l.Continue; opts.Continue == "" {
			break
		}
	}
	equal(t, "names on all pages", len(names), 25)
	equal(t, "with chunks", strings.Count(s.kubectl("get", "configmaps", "-l", "paged", "--chunk-size=7", "-o", "name"), "\n"), 26)
	_, err := maps.List(t.Context(), metav1.ListOptions{Limit: 5, Continue: "nonsense"})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("a continue token that is none: %v", err)
	}

	w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: first.ResourceVersion, LabelSelector: "paged"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e := <-w.ResultChan()
	if m, ok := e.Object.(*corev1.ConfigMap); !ok || e.Type != watch.Added || m.Name != "m-99-late" {
		t.Errorf("watched from the first page's revision: %+v", e)
	}
	if err := maps.Delete(t.Context(), "m-00", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e = <-w.ResultChan()
	if m, ok := e.Object.(*corev1.ConfigMap); !ok || e.Type != watch.Deleted || m.Name != "m-00" {
		t.Errorf("then: %+v", e)
	}
	_, err = maps.List(t.Context(), metav1.ListOptions{ResourceVersion: "99999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("a revision that is yet to come: %v", err)
	}
	initial := true
	w, err = maps.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &initial, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true, LabelSelector: "paged"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	count := 0
	for e := range w.ResultChan() {
		m, ok := e.Object.(*corev1.ConfigMap)
		if !ok {
			t.Fatalf("watch list: %+v", e)
		}
		if e.Type == watch.Bookmark {
			equal(t, "end of the initial events", m.Annotations[metav1.InitialEventsAnnotationKey], "true")
			break
		}
		count++
	}
	equal(t, "initial events", count, 25)
}

func TestDiscoveryAndExplain(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		resources := s.kubectl("api-resources", "-o", "wide")
		for _, row := range []string{"pods po v1 true Pod", "nodes no v1 false Node", "events ev v1 true Event", "leases coordination.k8s.io/v1 true Lease",
			"priorityclasses pc scheduling.k8s.io/v1 false PriorityClass", "roles rbac.authorization.k8s.io/v1 true Role"} {
			if !strings.Contains(squeeze(resources), row) {
				t.Errorf("api-resources lacks %q:\n%s", row, resources)
			}
		}
		contains(t, "versions", s.kubectl("api-versions"), "v1\n", "rbac.authorization.k8s.io/v1\n")
		contains(t, "explain", s.kubectl("explain", "pod.spec.containers.imagePullPolicy"), "KIND:       Pod", "FIELD: imagePullPolicy", "ENUM:", "IfNotPresent")
		contains(t, "explain all", s.kubectl("explain", "pod", "--recursive"), "terminationGracePeriodSeconds\t<integer>", "ephemeralContainers")
		s.fails([]string{"explain", "pod.spec.colour"}, `field "colour" does not exist`)
		contains(t, "cluster-info", s.kubectl("cluster-info"), "Kubernetes control plane", "is running at", "https://127.0.0.1:")
		contains(t, "version", s.kubectl("version"), "Server Version: v1.")
		contains(t, "config", s.kubectl("config", "view", "--minify"), "server: https://127.0.0.1:")
	})
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }

func TestAuth(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		equal(t, "can-i", s.kubectl("auth", "can-i", "create", "pods"), "yes\n")
		contains(t, "whoami", squeeze(s.kubectl("auth", "whoami")), "ATTRIBUTE VALUE Username", "system:authenticated")
		robot := "--as=system:serviceaccount:" + s.name + ":default"
		r := s.try("auth", "can-i", "create", "pods", robot)
		equal(t, "a robot's answer", r.stdout, "no\n")
		equal(t, "its exit code", r.code, 1)
		s.fails([]string{"get", "pods", robot}, `pods is forbidden: User "system:serviceaccount:`+s.name+`:default" cannot list resource "pods" in API group "" in the namespace "`+s.name+`"`)
		s.kubectl("create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount="+s.name+":default")
		s.kubectl("get", "pods", robot)
		s.fails([]string{"get", "secrets", robot}, "forbidden")
		s.fails([]string{"get", "nodes", robot}, "forbidden", "at the cluster scope")
		contains(t, "list", s.kubectl("auth", "can-i", "--list", robot), "selfsubjectreviews.authentication.k8s.io", "pods/log")
	})
}

// Flow schemas are those of any cluster, in the order in which requests would be compared with them.
func TestFlowControlIsShown(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("wait", "--for=create", "flowschema/exempt", "flowschema/catch-all", "prioritylevelconfiguration/system", "--timeout=120s")
	rows := strings.Split(strings.TrimSpace(s.kubectl("get", "flowschemas", "--no-headers")), "\n")
	equal(t, "first schema", columns(rows[0], 4), "exempt exempt 1 <none>")
	equal(t, "last schema", columns(rows[len(rows)-1], 4), "catch-all catch-all 10000 ByUser")
	equal(t, "level", columns(s.kubectl("get", "prioritylevelconfiguration", "system", "--no-headers"), 6), "system Limited 30 64 6 50")
	s.fails([]string{"patch", "flowschema", "catch-all", "--type=merge", "-p", `{"spec":{"matchingPrecedence":9}}`},
		"spec of 'catch-all' must equal the fixed value")
}

// The checks of health have upstream's names, one by one and all together, and may be left out.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		out := s.kubectl("get", "--raw", path+"?verbose")
		for _, check := range []string{"ping", "log", "etcd", "autoregister-completion", "poststarthook/start-apiserver-admission-initializer",
			"poststarthook/generic-apiserver-start-informers", "poststarthook/start-apiextensions-informers", "poststarthook/start-apiextensions-controllers",
			"poststarthook/crd-informer-synced", "poststarthook/storage-readiness", "poststarthook/bootstrap-controller", "poststarthook/start-system-namespaces-controller",
			"poststarthook/start-service-ip-repair-controllers", "poststarthook/rbac/bootstrap-roles",
			"poststarthook/scheduling/bootstrap-system-priority-classes", "poststarthook/start-cluster-authentication-info-controller",
			"poststarthook/start-kube-aggregator-informers", "poststarthook/apiservice-registration-controller",
			"poststarthook/apiservice-status-local-available-controller", "poststarthook/apiservice-status-remote-available-controller",
			"poststarthook/kube-apiserver-autoregistration", "poststarthook/apiservice-openapi-controller"} {
			if !strings.Contains(out, "[+]"+check+" ok\n") {
				t.Errorf("%s has no check %s: %s", path, check, out)
			}
			equal(t, path+"/"+check, s.kubectl("get", "--raw", path+"/"+check), "ok")
		}
		if got := strings.Contains(out, "[+]informer-sync ok\n"); got != (path == "/readyz") {
			t.Errorf("%s has check informer-sync: %t", path, got)
		}
		without := s.kubectl("get", "--raw", path+"?verbose&exclude=etcd")
		if !strings.Contains(without, "[+]etcd excluded: ok\n") {
			t.Errorf("%s without etcd: %s", path, without)
		}
	}
}

// The parts of the control plane tell how they are, and that there are better ways to ask.
func TestComponentStatuses(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	var got []string
	for _, row := range strings.Split(strings.TrimSpace(s.kubectl("get", "cs", "--no-headers")), "\n") {
		got = append(got, columns(row, 3))
	}
	equal(t, "parts", strings.Join(got, ", "), "controller-manager Healthy ok, etcd-0 Healthy ok, scheduler Healthy ok")
	equal(t, "one part", columns(s.kubectl("get", "componentstatus", "etcd-0", "--no-headers"), 3), "etcd-0 Healthy ok")
	s.fails([]string{"get", "cs", "--warnings-as-errors"}, "v1 ComponentStatus is deprecated in v1.19+")
	s.fails([]string{"get", "cs", "etcd-1"}, `componentstatus "etcd-1" not found`)
}

// Nobody without credentials learns anything but that the server is well.
func TestAnonymous(t *testing.T) {
	t.Parallel()
	cfg, err := shared.cluster.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/healthz": 200, "/version": 200,
		"/": 403, "/api": 403, "/apis": 403, "/openapi/v3": 403, "/metrics": 403, "/api/v1/pods": 403, "/logs": 403, "/debug/pprof/": 403,
	} {
		r, err := client.Get(cfg.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want && !(want == 403 && r.StatusCode == http.StatusUnauthorized) {
			t.Errorf("GET %s gives %d, want %d", path, r.StatusCode, want)
		}
	}
}
