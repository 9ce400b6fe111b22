// Package router finds the route of a request without looking at all routes each time. go-restful compares a request with
// every route of the web service that it belongs to, and copies each of them: some 300 for core/v1. What it finds depends
// on nothing but the request's method, two of its headers and the words of its path that occur in routes, so that it is
// remembered by these.
package router

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emicklei/go-restful/v3"
)

// most is how many answers are remembered. The headers are the client's choice, so there must be an end; the clients that
// there are need some hundred. What is not remembered is looked up as ever.
const most = 4096

// Router answers as restful.CurlyRouter does. The web services of its container, and their routes, must not change after the
// first request, but that services may be added. The zero value is ready to use.
type Router struct {
	curly restful.CurlyRouter
	known atomic.Pointer[table]
}

// table is what is known of a number of web services.
type table struct {
	services int
	// words are those that stand in routes, by their place in the path. What else stands there is a parameter's value.
	words []map[string]bool
	// exact says that routes do not look at values of parameters, nor at anything else of a request than what makes its key.
	exact   bool
	count   atomic.Int64
	answers sync.Map // by key, of *answer
}

// key is all of a request that a route depends on. path has values of parameters replaced.
type key struct{ method, accept, contentType, path string }

type answer struct {
	service *restful.WebService
	route   *restful.Route
}

// SelectRoute implements restful.RouteSelector. Only what is found is remembered: errors are rare, and may speak of the
// request.
func (r *Router) SelectRoute(services []*restful.WebService, request *http.Request) (*restful.WebService, *restful.Route, error) {
	t := r.table(services)
	if !t.exact {
		return r.curly.SelectRoute(services, request)
	}
	k := key{request.Method, request.Header.Get(restful.HEADER_Accept), request.Header.Get(restful.HEADER_ContentType), t.shape(request.URL.Path)}
	if found, ok := t.answers.Load(k); ok {
		a := found.(*answer)
		return a.service, a.route, nil
	}
	service, route, err := r.curly.SelectRoute(services, request)
	if err == nil && t.count.Load() < most {
		if _, had := t.answers.LoadOrStore(k, &answer{service, route}); !had {
			t.count.Add(1)
		}
	}
	return service, route, err
}

// table returns what is known of the services, which it finds out if there are others than before.
func (r *Router) table(services []*restful.WebService) *table {
	if t := r.known.Load(); t != nil && t.services == len(services) {
		return t
	}
	t := &table{services: len(services), exact: true}
	for _, s := range services {
		t.add(s.RootPath())
		for _, route := range s.Routes() {
			t.add(route.Path)
			t.exact = t.exact && len(route.If) == 0
		}
	}
	r.known.Store(t)
	return t
}

// add takes in the path of a route or service.
func (t *table) add(path string) {
	for i, word := range split(path) {
		if i == len(t.words) {
			t.words = append(t.words, map[string]bool{})
		}
		parameter := strings.HasPrefix(word, "{")
		// A parameter may take all that follows; one with another expression looks at its value, and so does a verb ("name:verb").
		if strings.Contains(word, ":") && !(parameter && strings.HasSuffix(word, ":*}")) {
			t.exact = false
		}
		if !parameter {
			t.words[i][word] = true
		}
	}
}

// shape is the path with a mark in the place of each word that is no route's. No route takes the mark for a word of its own.
func (t *table) shape(path string) string {
	const mark = "\x00"
	var b strings.Builder
	b.Grow(len(path) + 1)
	for i, word := range split(path) {
		if i > 0 {
			b.WriteByte('/')
		}
		// An empty word is no value.
		if word != "" && (i >= len(t.words) || !t.words[i][word]) {
			word = mark
		}
		b.WriteString(word)
	}
	return b.String()
}

// split is how go-restful splits paths.
func split(path string) []string {
	if path == "/" {
		return nil
	}
	if restful.TrimRightSlashEnabled {
		return strings.Split(strings.Trim(path, "/"), "/")
	}
	return strings.Split(strings.TrimLeft(path, "/"), "/")
}
