package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/resource/connect"
)

// Subresources lists the parts of a Node, beyond status, that have storage of their own.
func Subresources() []resource.Subresource {
	return []resource.Subresource{
		{Name: "proxy", Build: func(_ resource.Parent, env resource.Env) rest.Storage { return &proxyREST{env} }},
	}
}

// proxyREST passes HTTP requests on to a node, at the address that it has registered and no other. Name is
// "[scheme:]name[:port]"; without a port, or with the kubelet's, the kubelet is meant.
type proxyREST struct{ env resource.Env }

var _ rest.Connecter = (*proxyREST)(nil)

func (r *proxyREST) New() runtime.Object      { return &corev1.NodeProxyOptions{} }
func (r *proxyREST) Destroy()                 {}
func (r *proxyREST) ConnectMethods() []string { return connect.ProxyMethods() }

func (r *proxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

func (r *proxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.NodeProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	if r.env.Nodes == nil {
		return nil, apierrors.NewServiceUnavailable("this server does not connect to kubelets")
	}
	location, transport, err := r.env.Nodes.Kubelet(ctx, name)
	if err != nil {
		return nil, err
	}
	if port != "" && port != location.Port() {
		if err := connect.CheckAddress(location.Hostname()); err != nil {
			return nil, err
		}
		if scheme == "" {
			scheme = "http"
		}
		location = &url.URL{Scheme: scheme, Host: net.JoinHostPort(location.Hostname(), port)}
		transport = r.env.Nodes.Pods()
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, o.Path)
	return connect.Proxy(location, transport, responder), nil
}
