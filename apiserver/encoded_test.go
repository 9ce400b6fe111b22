package apiserver_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/apiserver/servertest"
)

// The handlers encode what they are asked for with any parameter, even if it changes nothing.
const (
	passedThrough = "application/vnd.kubernetes.protobuf"
	asEncoded     = "application/vnd.kubernetes.protobuf;sv=v1"
)

// A list as protobuf is byte for byte the same whether its objects are encoded or passed through as they are stored.
func TestListsPassedThroughAreListsEncoded(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	for i := range 12 {
		p := pod(fmt.Sprint("p", i))
		p.Labels = map[string]string{"third": fmt.Sprint(i % 3)}
		must(c.CoreV1().Pods("n").Create(ctx, p, metav1.CreateOptions{}))(t)
		must(c.CoreV1().ConfigMaps("n").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)},
			Data: map[string]string{"large": strings.Repeat("x", 20000)}}, metav1.CreateOptions{}))(t)
	}
	// Somebody watches, so that decoded objects are kept.
	for _, path := range []string{"/api/v1/pods", "/api/v1/configmaps"} {
		w := must(c.CoreV1().RESTClient().Get().AbsPath(path).Param("watch", "1").Stream(ctx))(t)
		t.Cleanup(func() { w.Close() })
	}
	compare := func() {
		t.Helper()
		for _, path := range []string{
			"/api/v1/pods", "/api/v1/namespaces/n/pods", "/api/v1/namespaces/n/pods?limit=5", "/api/v1/pods?resourceVersion=0",
			"/api/v1/pods?labelSelector=third%3D1", "/api/v1/pods?fieldSelector=metadata.name%3Dp3", "/api/v1/pods?fieldSelector=metadata.namespace%3Dn",
			"/api/v1/pods?fieldSelector=spec.nodeName%3Dnone", "/api/v1/namespaces/empty/pods", "/api/v1/configmaps", "/api/v1/namespaces",
			"/api/v1/nodes", "/apis/apps/v1/deployments", "/apis/events.k8s.io/v1/events", "/api/v1/pods?resourceVersion=999999999", "/api/v1/pods?limit=x",
		} {
			for _, encoding := range []string{"identity", "gzip"} {
				want, wantHeader, wantBody := do(t, s, "GET", path, "", "Accept", asEncoded, "Accept-Encoding", encoding)
				got, header, body := do(t, s, "GET", path, "", "Accept", passedThrough, "Accept-Encoding", encoding)
				if got != want || got == http.StatusOK && body != wantBody {
					t.Errorf("GET %s: %d with %d bytes passed through, %d with %d encoded", path, got, len(body), want, len(wantBody))
				}
				for _, h := range []string{"Content-Type", "Content-Encoding", "Vary"} {
					if got == http.StatusOK && header.Get(h) != wantHeader.Get(h) {
						t.Errorf("GET %s: %s is %q passed through, %q encoded", path, h, header.Get(h), wantHeader.Get(h))
					}
				}
			}
		}
	}
	compare()
	must(c.CoreV1().Pods("n").Patch(ctx, "p3", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
	compare()
	compare()
}

// Whatever a client accepts, and in whatever order, it gets what it gets from the handlers alone.
func TestOnlyWhatHandlersSendIsPassedThrough(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	must(c.CoreV1().Pods("n").Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	const table, partial = ";as=Table;g=meta.k8s.io;v=v1", ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	sent := map[string]bool{}
	// %s stands for protobuf, with nothing asked of it and with a parameter that changes nothing.
	for _, accept := range []string{
		"%s", "%s,application/json", "application/json,%s", "application/json;q=0.5,%s", "application/json,%s;q=0.5", "*/*,%s", "%s,*/*",
		"application/vnd.kubernetes.protobuf" + table + ",%s", "application/json" + table + ",%s", "%s,application/json" + table,
		"application/vnd.kubernetes.protobuf" + partial + ",%s", "application/vnd.kubernetes.protobuf;as=Unheard;g=meta.k8s.io;v=v1,%s",
		"application/vnd.kubernetes.protobuf;stream=watch,%s", "application/yaml,%s", "text/plain,%s",
	} {
		want, wantHeader, wantBody := do(t, s, "GET", "/api/v1/namespaces/n/pods", "", "Accept", fmt.Sprintf(accept, asEncoded))
		got, header, body := do(t, s, "GET", "/api/v1/namespaces/n/pods", "", "Accept", fmt.Sprintf(accept, passedThrough))
		if got != want || header.Get("Content-Type") != wantHeader.Get("Content-Type") || withoutAge(body) != withoutAge(wantBody) {
			t.Errorf("Accept %s: %d %s, from the handlers alone %d %s:\n%q\n%q", accept, got, header.Get("Content-Type"), want, wantHeader.Get("Content-Type"), body, wantBody)
		}
		sent[header.Get("Content-Type")] = true
	}
	if len(sent) < 3 {
		t.Errorf("only %v were sent: that tries little", sent)
	}
}

// withoutAge is a table without the only thing in it that changes by itself.
func withoutAge(body string) string { return age.ReplaceAllString(body, `"0s"`) }

var age = regexp.MustCompile(`"[0-9]+s"`)
