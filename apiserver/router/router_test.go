package router_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/emicklei/go-restful/v3"

	"github.com/peapod/peapod/apiserver/router"
)

func nothing(*restful.Request, *restful.Response) {}

// services are web services of the shape that k8s.io/apiserver gives them, with n resources.
func services(n int) []*restful.WebService {
	api := new(restful.WebService).Path("/api/v1").Produces(restful.MIME_JSON, "application/protobuf")
	api.Route(api.GET("/").To(nothing))
	for i := range n {
		for _, scope := range []string{"", "namespaces/{namespace}/"} {
			kind := fmt.Sprintf("%skind%d", scope, i)
			api.Route(api.GET(kind).To(nothing))
			api.Route(api.POST(kind).To(nothing))
			api.Route(api.GET(kind + "/{name}").To(nothing))
			api.Route(api.PATCH(kind+"/{name}").Consumes("application/merge-patch+json", "application/apply-patch+yaml").To(nothing))
			api.Route(api.PUT(kind + "/{name}/status").To(nothing))
			api.Route(api.GET(kind + "/{name}/proxy/{path:*}").Produces("*/*").To(nothing))
			api.Route(api.GET("watch/" + kind).To(nothing))
		}
	}
	root := new(restful.WebService).Path("/apis").Produces(restful.MIME_JSON)
	root.Route(root.GET("/").To(nothing))
	version := new(restful.WebService).Path("/version")
	version.Route(version.GET("/").To(nothing))
	tenant := new(restful.WebService).Path("/tenants/{tenant}")
	tenant.Route(tenant.GET("/x").To(nothing))
	return []*restful.WebService{version, api, root, tenant}
}

func request(method, path, accept, contentType string) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	r.URL.Path = path
	for name, value := range map[string]string{restful.HEADER_Accept: accept, restful.HEADER_ContentType: contentType} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	return r
}

// paths are some that exist and some that do not, with values that are words of routes in other places.
var paths = []string{
	"/", "/version", "/version/", "/apis", "/apis/", "/apis/none", "/api/v1", "/api/v1/", "/api", "/api/v2/kind0",
	"/api/v1/kind0", "/api/v1/kind0/", "/api/v1/kind0/a", "/api/v1/kind0/b", "/api/v1/kind0/kind1", "/api/v1/kind0/status", "/api/v1/kind9/a",
	"/api/v1/kind0/a/status", "/api/v1/kind0/proxy/status", "/api/v1/kind0/a/none", "/api/v1/kind0//status", "//api/v1/kind0",
	"/api/v1/kind1/a/proxy/", "/api/v1/kind1/a/proxy/x", "/api/v1/kind1/a/proxy/x/y/status", "/api/v1/kind1/b/proxy/x//y/z", "/api/v1/kind1/a/proxy",
	"/api/v1/namespaces/n/kind0", "/api/v1/namespaces/kind0/kind0", "/api/v1/namespaces/namespaces/kind0/namespaces", "/api/v1/namespaces/n/kind0/a/status",
	"/api/v1/namespaces//kind0/a", "/api/v1/namespaces/n", "/api/v1/watch/kind0", "/api/v1/watch/namespaces/n/kind0", "/api/v1/watch/a",
	"/api/v1/kind0/*", "/api/v1/kind0/{name}", "/api/v1/kind0/\x00", "/api/v1/\x00/a",
	"/tenants/a/x", "/tenants//x", "/tenants/x/x",
}

// Whatever is asked, in whatever order and however often, the answer is that of go-restful itself.
func TestAnswersAsCurlyRouter(t *testing.T) {
	all := services(2)
	r := &router.Router{}
	found := 0
	for round := range 3 {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			for _, accept := range []string{"", "application/json", "application/protobuf,*/*;q=0.1", "text/html"} {
				for _, contentType := range []string{"", "application/json", "application/merge-patch+json", "application/apply-patch+yaml"} {
					for _, path := range paths {
						wantService, wantRoute, wantErr := restful.CurlyRouter{}.SelectRoute(all, request(method, path, accept, contentType))
						service, route, err := r.SelectRoute(all, request(method, path, accept, contentType))
						if service != wantService || fmt.Sprint(err) != fmt.Sprint(wantErr) || describe(route) != describe(wantRoute) {
							t.Fatalf("round %d: %s %q, accepting %q, sending %q: got %s, %v, want %s, %v", round, method, path, accept, contentType,
								describe(route), err, describe(wantRoute), wantErr)
						}
						if err == nil {
							found++
						}
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no request found a route: nothing was compared")
	}
}

func describe(r *restful.Route) string {
	if r == nil {
		return "no route"
	}
	return r.Method + " " + r.Path
}

// Routes that look at the values of parameters, or at the request, are found anew each time.
func TestRoutesThatLookAtValues(t *testing.T) {
	ws := new(restful.WebService).Path("/a")
	ws.Route(ws.GET("/{number:[0-9]+}").To(nothing))
	asks := new(restful.WebService).Path("/a")
	asks.Route(asks.GET("/{word}/x").If(func(r *http.Request) bool { return r.Header.Get("X") != "" }).To(nothing))
	verbs := new(restful.WebService).Path("/b")
	verbs.Route(verbs.GET("/{name}:start").To(nothing))
	for _, some := range [][]*restful.WebService{{ws}, {asks}, {verbs}, {ws, asks, verbs}} {
		r := &router.Router{}
		for range 2 {
			for _, path := range []string{"/a/1", "/a/b", "/a/b/x", "/b/c:start", "/b/c"} {
				for _, x := range []string{"", "yes"} {
					q := request("GET", path, "", "")
					q.Header.Set("X", x)
					_, want, _ := restful.CurlyRouter{}.SelectRoute(some, q)
					if _, got, _ := r.SelectRoute(some, q); describe(got) != describe(want) {
						t.Errorf("GET %s with X %q: got %s, want %s", path, x, describe(got), describe(want))
					}
				}
			}
		}
	}
}

// Headers that never end do not fill the memory, and answers stay right when there is no room for more.
func TestRemembersWithinBounds(t *testing.T) {
	all, r := services(1), &router.Router{}
	for i := range 6000 {
		q := request("GET", "/api/v1/kind0/a", fmt.Sprintf("application/json;n=%d", i), "")
		if _, got, err := r.SelectRoute(all, q); err != nil || describe(got) != "GET /api/v1/kind0/{name}" {
			t.Fatalf("request %d: got %s, %v", i, describe(got), err)
		}
	}
	if n := r.Remembered(); n != router.Most {
		t.Errorf("%d answers are remembered, want %d", n, router.Most)
	}
}

// BenchmarkSelectRoute finds one route among those of 40 kinds.
func BenchmarkSelectRoute(b *testing.B) {
	all := services(40)
	for name, r := range map[string]restful.RouteSelector{"curly": restful.CurlyRouter{}, "router": &router.Router{}} {
		b.Run(name, func(b *testing.B) {
			q := request("GET", "/api/v1/namespaces/default/kind20/pod-1234", "application/json", "")
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.SelectRoute(all, q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
