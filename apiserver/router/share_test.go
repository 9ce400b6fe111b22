package router_test

import (
	"fmt"
	"net/http/httptest"
	"reflect"
	"regexp"
	"testing"

	"github.com/emicklei/go-restful/v3"

	"github.com/peapod/peapod/apiserver/router"
)

var matcher = regexp.MustCompile("Matcher:0x[0-9a-f]+ ") // which Source has, too

// said is what a route says and what was made of its path, without where that is.
func said(r restful.Route) string {
	out := ""
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		f := v.Field(i)
		switch name := v.Type().Field(i).Name; {
		case name == "ParameterDocs":
			for _, p := range r.ParameterDocs {
				out += fmt.Sprintf("%+v ", p.Data())
			}
		case f.Kind() == reflect.Pointer && !f.IsNil() && f.Elem().Kind() == reflect.Struct:
			out += name + "=" + matcher.ReplaceAllString(fmt.Sprintf("%+v", f.Elem()), "") + "\n"
		default:
			out += fmt.Sprintf("%s=%+v\n", name, f)
		}
	}
	return out
}

// Sharing changes nothing about routes but where they have things from: each path is compiled once, each parameter described once.
func TestSharedRoutes(t *testing.T) {
	container := restful.NewContainer()
	api := new(restful.WebService).Path("/api/v1")
	for _, method := range []string{"GET", "PUT", "PATCH"} {
		for _, kind := range []string{"pods", "nodes"} {
			for _, rest := range []string{"", "/status"} {
				api.Route(api.Method(method).Path(kind+"/{name}"+rest).Operation(method+kind+rest).Doc(method).Produces("application/"+method).
					Metadata("of", method).Returns(200, "OK", kind).
					Param(api.PathParameter("name", "name of the "+kind)).
					Param(api.QueryParameter("pretty", "for people").DataType("string")).
					To(func(r *restful.Request, w *restful.Response) {
						_, _ = fmt.Fprint(w, method, " ", kind, rest, " ", r.PathParameter("name")) // to a recorder
					}))
			}
		}
	}
	container.Add(api)
	var before []string
	for _, r := range api.Routes() {
		before = append(before, said(r))
	}
	router.Share(container)
	container.Router(&router.Router{})
	compiled, described := map[uintptr]bool{}, map[*restful.Parameter]bool{}
	for i, r := range api.Routes() {
		if now := said(r); now != before[i] {
			t.Errorf("route %s %s was\n%s\nand is\n%s", r.Method, r.Path, before[i], now)
		}
		compiled[reflect.ValueOf(r).FieldByName("pathExpr").Pointer()] = true
		for _, p := range r.ParameterDocs {
			described[p] = true
		}
	}
	if len(compiled) != 4 || len(described) != 3 {
		t.Errorf("%d paths are compiled and %d parameters described, want 4 and 3", len(compiled), len(described))
	}
	for _, r := range []struct{ method, path, want string }{
		{"GET", "/api/v1/pods/a", "GET pods a"}, {"PATCH", "/api/v1/pods/a/status", "PATCH pods/status a"}, {"PUT", "/api/v1/nodes/b/status", "PUT nodes/status b"},
	} {
		w := httptest.NewRecorder()
		container.Dispatch(w, request(r.method, r.path, "", ""))
		if w.Body.String() != r.want {
			t.Errorf("%s %s is answered %q, want %q", r.method, r.path, w.Body, r.want)
		}
	}
}
