package router

import (
	"reflect"

	"github.com/emicklei/go-restful/v3"
)

// Share has routes of one path share what go-restful made of that path, regular expressions above all, and routes whose parameters are
// described alike share the descriptions. Each route has its own of both otherwise: 6 MB for the kinds that there are, of which 2 stay.
// It must be called when all routes are there, and before the first request. Routes of one path must not differ in what their builders' methods
// ContentEncodingEnabled and AllowedMethodsWithoutContentType set; k8s.io/apiserver calls neither.
func Share(container *restful.Container) {
	described := map[string][]*restful.Parameter{}
	for _, service := range container.RegisteredWebServices() {
		first := map[string]restful.Route{}
		routes := service.Routes() // the service's own, not a copy
		for i := range routes {
			r := &routes[i]
			for j, p := range r.ParameterDocs {
				r.ParameterDocs[j] = alike(described, p)
			}
			if same, ok := first[r.Path]; ok {
				*r = sharing(same, *r)
			} else {
				first[r.Path] = *r
			}
		}
	}
}

// sharing returns r with what was made of the path of same, which is r's. That go-restful keeps to itself: it comes with a copy of same, to
// which everything is given that r says.
func sharing(same, r restful.Route) restful.Route {
	from, to := reflect.ValueOf(r), reflect.ValueOf(&same).Elem()
	for i := range from.NumField() {
		if to.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return same
}

// alike returns the first parameter that was described as p is, p itself if there was none.
func alike(described map[string][]*restful.Parameter, p *restful.Parameter) *restful.Parameter {
	data := p.Data()
	for _, other := range described[data.Name] {
		if other == p || reflect.DeepEqual(other.Data(), data) {
			return other
		}
	}
	described[data.Name] = append(described[data.Name], p)
	return p
}
