// Package connect holds what the subresources that pass a connection on to a kubelet, a Pod or a Service have in common.
package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// ProxyMethods are those of the HTTP methods that a proxy subresource passes on.
func ProxyMethods() []string {
	return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
}

// StreamMethods start a stream: a WebSocket is opened by GET, SPDY by either.
func StreamMethods() []string { return []string{"GET", "POST"} }

// Proxy passes requests, and connections that are upgraded, on to location. Links in HTML that comes back are changed to
// lead through the proxy. Redirects are passed back, never followed.
func Proxy(location *url.URL, transport http.RoundTripper, responder rest.Responder) http.Handler {
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(responder))
}

// Stream passes an upgraded connection on to a kubelet, which speaks SPDY: WebSockets of the remote command protocol
// whose streams can be closed one by one (v5) are translated.
func Stream(location *url.URL, transport http.RoundTripper, responder rest.Responder, streams translator.Options) http.Handler {
	upgrade := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
	translate := translator.NewStreamTranslatorHandler(location, transport, 0, streams)
	return translator.NewTranslatingHandler(upgrade, quiet(translate), wsstream.IsWebSocketRequestWithStreamCloseProtocol)
}

// Tunnel passes an upgraded connection on to a kubelet: SPDY as it is, or tunnelled in a WebSocket.
func Tunnel(location *url.URL, transport http.RoundTripper, responder rest.Responder) http.Handler {
	upgrade := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
	return translator.NewTranslatingHandler(upgrade, translator.NewTunnelingHandler(upgrade), wsstream.IsWebSocketRequestWithTunnelingProtocol)
}

// RequireCreate checks, for a request that came as a GET and was authorized as such, that its user may create the
// subresource too: who may look at Pods may not therefore run commands in them.
func RequireCreate(ctx context.Context, a authorizer.Authorizer) error {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no request info found in the context"))
	}
	if info.Verb == "create" {
		return nil
	}
	as, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no user found in the context"))
	}
	attributes := authorizer.AttributesRecord{
		User: as, Verb: "create", Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name, ResourceRequest: true, Path: info.Path,
	}
	decision, reason, err := a.Authorize(ctx, attributes)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	gr := schema.GroupResource{Group: info.APIGroup, Resource: info.Resource + "/" + info.Subresource}
	if err != nil {
		return apierrors.NewForbidden(gr, info.Name, err)
	}
	if reason == "" {
		reason = fmt.Sprintf("User %q cannot create resource %q in API group %q in the namespace %q",
			as.GetName(), info.Resource+"/"+info.Subresource, info.APIGroup, info.Namespace)
	}
	return apierrors.NewForbidden(gr, info.Name, errors.New(reason))
}

// CheckAddress says whether the server may connect to a Pod at ip: never to itself or to what only it can reach.
func CheckAddress(ip string) error {
	addr := net.ParseIP(ip)
	if addr == nil || !addr.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}
