package aggregation

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"
)

// routes leads requests to the servers behind this one. It is read-only.
type routes struct {
	versions map[schema.GroupVersion]*backend
	// groups are those that have such a version.
	groups map[string]bool
}

// find returns who answers a request: a server behind this one, d for what concerns all groups or a group with such a server, or own.
func (r *routes) find(req *http.Request, d func() *groupLists, own http.Handler) http.Handler {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch {
	case path[0] == "api":
		if b := r.versions[schema.GroupVersion{Version: "v1"}]; b != nil {
			return forward{b, d().serializer}
		}
	case path[0] != "apis":
	case len(path) == 1 && req.Method == http.MethodGet:
		return d().groups
	case len(path) == 2 && req.Method == http.MethodGet && r.groups[path[1]]:
		return d().group(path[1])
	case len(path) > 2:
		if b := r.versions[schema.GroupVersion{Group: path[1], Version: path[2]}]; b != nil {
			return forward{b, d().serializer}
		}
	}
	return own
}

// forward hands a request, which has been authenticated and authorized, over to the server behind this one.
type forward struct {
	*backend
	serializer runtime.NegotiatedSerializer
}

// ServeHTTP implements http.Handler.
func (f forward) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !f.available.Load() {
		f.fail(w, req, apierrors.NewServiceUnavailable("service unavailable"))
		return
	}
	if f.broken != nil {
		f.fail(w, req, apierrors.NewInternalError(f.broken))
		return
	}
	as, ok := request.UserFrom(req.Context())
	if !ok {
		f.fail(w, req, apierrors.NewInternalError(errors.New("missing user")))
		return
	}
	host, err := f.host()
	if err != nil {
		f.fail(w, req, apierrors.NewServiceUnavailable("service unavailable"))
		return
	}
	location := &url.URL{Scheme: "https", Host: host, Path: req.URL.Path, RawQuery: req.URL.Query().Encode()}
	onward, cancel := apiproxy.NewRequestForProxy(location, req)
	defer cancel()
	ownHeaders(onward.Header)
	upgrade := httpstream.IsUpgradeRequest(req)
	if upgrade {
		// Such a request is written as it is. What the client calls hop-by-hop would be taken out by a proxy on the way: who asks, too.
		onward.Header.Set("Connection", "Upgrade")
		transport.SetAuthProxyHeaders(onward, as.GetName(), as.GetUID(), as.GetGroups(), as.GetExtra())
	}
	tripper := transport.NewAuthProxyRoundTripper(as.GetName(), as.GetUID(), as.GetGroups(), as.GetExtra(), f.transport)
	h := proxy.NewUpgradeAwareHandler(location, tripper, true, upgrade, f)
	h.RejectForwardingRedirects = true
	h.ServeHTTP(w, onward)
}

// ownHeaders takes out what is between the client and this server: its credential, and whom it acts as. The handlers before this one
// have done so where they used it.
func ownHeaders(h http.Header) {
	for name := range h {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			delete(h, name)
		}
	}
}

// Error implements proxy.ErrorResponder: the server could not be reached, which the error says.
func (f forward) Error(w http.ResponseWriter, req *http.Request, err error) {
	f.fail(w, req, apierrors.NewServiceUnavailable(err.Error()))
}

func (f forward) fail(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, f.serializer, schema.GroupVersion{Version: "v1"}, w, req)
}
