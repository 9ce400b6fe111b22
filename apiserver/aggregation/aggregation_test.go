package aggregation_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/servertest"
)

const patience = 2 * time.Minute

func apiServices(t *testing.T, s *servertest.Server) aggregatorclient.APIServiceInterface {
	t.Helper()
	c, err := aggregatorclient.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c.APIServices()
}

// await watches an APIService until it is as is says; nil stands for one that is gone.
func await(t *testing.T, c aggregatorclient.APIServiceInterface, name string, is func(*apiregistrationv1.APIService) bool) *apiregistrationv1.APIService {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	selected := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	list, err := c.List(ctx, selected)
	if err != nil {
		t.Fatal(err)
	}
	last := (*apiregistrationv1.APIService)(nil)
	if len(list.Items) > 0 {
		last = &list.Items[0]
	}
	if is(last) {
		return last
	}
	selected.ResourceVersion = list.ResourceVersion
	w, err := c.Watch(ctx, selected)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		last, _ = e.Object.(*apiregistrationv1.APIService)
		if e.Type == "DELETED" {
			last = nil
		}
		if is(last) {
			return last
		}
	}
	t.Fatalf("APIService %s is not as expected in time: %+v", name, last)
	return nil
}

func reason(want string) func(*apiregistrationv1.APIService) bool {
	return func(s *apiregistrationv1.APIService) bool {
		if s == nil {
			return false
		}
		c := helper.GetAPIServiceConditionByType(s, apiregistrationv1.Available)
		return c != nil && c.Reason == want
	}
}

// serve registers the server and waits until it is available.
func serve(t *testing.T, s *servertest.Server, b *wardle) aggregatorclient.APIServiceInterface {
	t.Helper()
	if _, err := s.Client(t).CoreV1().Services(namespace).Create(t.Context(), b.service(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := apiServices(t, s)
	if _, err := c.Create(t.Context(), b.apiService(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	available := await(t, c, object, reason("Passed"))
	if got := available.Status.Conditions[0]; got.Status != apiregistrationv1.ConditionTrue || got.Message != "all checks passed" {
		t.Errorf("condition is %+v", got)
	}
	return c
}

func do(t *testing.T, client *http.Client, method, url string, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// oldHTTP returns the admin's client of HTTP/1.1, in which a client may say what is hop-by-hop.
func oldHTTP(t *testing.T, s *servertest.Server) *http.Client {
	t.Helper()
	config := s.Config("admin")
	config.NextProtos = []string{"http/1.1"}
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func asJSON() http.Header {
	return http.Header{"Accept": {"application/json"}, "Content-Type": {"application/json"}}
}

// TestWhoAsks: the server behind is told by this one who asks, whatever the client says of itself, and gets no credential of the
// client's.
func TestWhoAsks(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	serve(t, s, b)
	forged := asJSON()
	for name, value := range map[string]string{
		"X-Remote-User": "eve", "X-Remote-Group": "system:masters", "X-Remote-Extra-Scopes": "all", "X-Remote-Uid": "0",
		"Connection": "X-Remote-User, X-Remote-Group", "Impersonate-User": "jane", "Impersonate-Group": "developers",
		"Impersonate-Uid": "7", "Impersonate-Extra-Reason": "test", "X-Custom": "kept",
	} {
		forged.Set(name, value)
	}
	resp, body := do(t, oldHTTP(t, s), http.MethodPost, s.URL+flunders+"?dryRun=All", `{"a":"b"}`, forged)
	if resp.StatusCode != http.StatusCreated || body != `{"a":"b"}` {
		t.Fatalf("answer is %d, %s", resp.StatusCode, body)
	}
	seen := b.requests()
	if len(seen) != 1 {
		t.Fatalf("%d requests arrived, want 1", len(seen))
	}
	got := seen[0]
	want := map[string][]string{
		"X-Remote-User": {"jane"}, "X-Remote-Group": {"developers", "system:authenticated"}, "X-Remote-Uid": {"7"},
		"X-Remote-Extra-Reason": {"test"}, "X-Custom": {"kept"},
	}
	for name, values := range want {
		have := slices.Clone(got.Header[name])
		slices.Sort(have)
		if !slices.Equal(have, values) {
			t.Errorf("header %s is %q, want %q", name, have, values)
		}
	}
	for name := range got.Header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") && want[name] == nil {
			t.Errorf("header %s: %q arrived", name, got.Header[name])
		}
	}
	if name := got.TLS.PeerCertificates[0].Subject.CommonName; name != "front-proxy-client" {
		t.Errorf("the client certificate is %q's", name)
	}
	if got.URL.RawQuery != "dryRun=All" {
		t.Errorf("the query is %q", got.URL.RawQuery)
	}
}

// TestAuthorizedFirst: who may not do a thing does not reach the server behind.
func TestAuthorizedFirst(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	serve(t, s, b)
	eve, err := rest.HTTPClientFor(s.Config("eve"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := do(t, eve, http.MethodGet, s.URL+flunders, "", asJSON()); resp.StatusCode != http.StatusForbidden {
		t.Errorf("answer is %d, %s", resp.StatusCode, body)
	}
	nobody := s.Config("nobody")
	client, err := rest.HTTPClientFor(nobody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := do(t, client, http.MethodGet, s.URL+flunders, "", asJSON()); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("answer is %d, %s", resp.StatusCode, body)
	}
	if seen := b.requests(); len(seen) != 0 {
		t.Errorf("%d requests arrived", len(seen))
	}
}

// TestRedirect: a server behind this one cannot lead clients, with their credentials, elsewhere.
func TestRedirect(t *testing.T) {
	s, front := newServer(t)
	serve(t, s, newWardle(t, front))
	client := s.HTTP(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, body := do(t, client, http.MethodGet, s.URL+flunders+"/elsewhere", "", asJSON())
	if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Location") != "" {
		t.Errorf("answer is %d, %v, %s", resp.StatusCode, resp.Header, body)
	}
}

// TestWatch: events arrive when they are sent, not when the answer ends.
func TestWatch(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	serve(t, s, b)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+flunders+"?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.HTTP(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), "ADDED") {
		t.Fatalf("first event is %q, %v", lines.Text(), lines.Err())
	}
	close(b.hold)
	if !lines.Scan() || !strings.Contains(lines.Text(), "DELETED") {
		t.Fatalf("second event is %q, %v", lines.Text(), lines.Err())
	}
}

// TestAvailability goes through what may be wrong with the way to a server.
func TestAvailability(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	c, core := apiServices(t, s), s.Client(t).CoreV1()
	if _, err := c.Create(t.Context(), b.apiService(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got := await(t, c, object, reason("ServiceNotFound"))
	if m := got.Status.Conditions[0].Message; m != `service/api in "default" is not present` {
		t.Errorf("message is %q", m)
	}
	resp, body := do(t, s.HTTP(t), http.MethodGet, s.URL+flunders, "", asJSON())
	var status metav1.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || resp.StatusCode != http.StatusServiceUnavailable || status.Reason != metav1.StatusReasonServiceUnavailable {
		t.Errorf("answer is %d, %s", resp.StatusCode, body)
	}
	// A cluster IP, which nothing here leads anywhere: it is not tried before there are endpoints.
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api", Namespace: namespace},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "tls", Port: 1, TargetPort: intstr.FromInt32(1)}}}}
	if _, err := core.Services(namespace).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, object, reason("ServicePortError"))
	patch(t, c, `{"spec":{"service":{"port":1}}}`)
	await(t, c, object, reason("EndpointsNotFound"))
	slice := endpointSlice(ptr.To(false))
	slices := s.Client(t).DiscoveryV1().EndpointSlices(namespace)
	if _, err := slices.Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got = await(t, c, object, reason("MissingEndpoints"))
	if m := got.Status.Conditions[0].Message; m != `endpointslices for service/api in "default" have no addresses with port name "tls"` {
		t.Errorf("message is %q", m)
	}
	// The server itself, by a Service that stands for its name, and then with an authority that is not its own.
	if err := core.Services(namespace).Delete(t.Context(), "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, object, reason("ServiceNotFound"))
	if _, err := core.Services(namespace).Create(t.Context(), b.service(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch(t, c, `{"spec":{"service":{"port":`+strconv.Itoa(int(b.port))+`}}}`)
	await(t, c, object, reason("Passed"))
	other, err := json.Marshal(servertest.NewAuthority(t).CurrentCABundleContent())
	if err != nil {
		t.Fatal(err)
	}
	patch(t, c, `{"spec":{"caBundle":`+string(other)+`}}`)
	got = await(t, c, object, reason("FailedDiscoveryCheck"))
	if m := got.Status.Conditions[0].Message; !strings.Contains(m, "certificate signed by unknown authority") {
		t.Errorf("message is %q", m)
	}
	patch(t, c, `{"spec":{"caBundle":null,"insecureSkipTLSVerify":true}}`)
	await(t, c, object, reason("Passed"))
	b.fail(true)
	patch(t, c, `{"metadata":{"labels":{"look":"again"}}}`)
	await(t, c, object, reason("FailedDiscoveryCheck"))
	b.fail(false)
	await(t, c, object, reason("Passed"))
}

func patch(t *testing.T, c aggregatorclient.APIServiceInterface, p string) {
	t.Helper()
	if _, err := c.Patch(t.Context(), object, types.MergePatchType, []byte(p), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestStatusIsOthersToo: conditions of others stay, and an update of the spec does not touch the status.
func TestStatusIsOthersToo(t *testing.T) {
	s, front := newServer(t)
	c := serve(t, s, newWardle(t, front))
	if _, err := c.Patch(t.Context(), object, types.MergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Available","status":"False"},{"type":"Other","status":"True"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	got := await(t, c, object, reason("Passed"))
	if !slices.ContainsFunc(got.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool { return c.Type == "Other" }) {
		t.Errorf("conditions are %+v", got.Status.Conditions)
	}
	if err := c.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=" + object}); err != nil {
		t.Fatal(err)
	}
	await(t, c, object, func(s *apiregistrationv1.APIService) bool { return s == nil })
	if _, err := c.Get(t.Context(), object, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("error is %v", err)
	}
}
