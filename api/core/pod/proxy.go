package pod

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/resource/connect"
)

// proxyREST passes HTTP requests on to a Pod at the address that it has registered. Name is "[scheme:]name[:port]"; the
// port is the first that the Pod declares if none is given.
type proxyREST struct {
	pods rest.Getter
	env  resource.Env
}

var _ rest.Connecter = (*proxyREST)(nil)

func (r *proxyREST) New() runtime.Object      { return &corev1.PodProxyOptions{} }
func (r *proxyREST) Destroy()                 {}
func (r *proxyREST) ConnectMethods() []string { return connect.ProxyMethods() }

func (r *proxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodProxyOptions{}, true, "path"
}

func (r *proxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	if r.env.Nodes == nil {
		return nil, apierrors.NewServiceUnavailable("this server does not connect to Pods")
	}
	p, err := get(ctx, r.pods, name)
	if err != nil {
		return nil, err
	}
	ip := firstIP(p)
	if err := connect.CheckAddress(ip); err != nil {
		return nil, err
	}
	if port == "" {
		port = declaredPort(p)
	}
	location := &url.URL{Scheme: scheme, Host: ip}
	if port != "" {
		location.Host = net.JoinHostPort(ip, port)
	} else if net.ParseIP(ip).To4() == nil {
		location.Host = "[" + ip + "]"
	}
	if location.Scheme == "" {
		location.Scheme = "http"
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, o.Path)
	return connect.Proxy(location, r.env.Nodes.Pods(), responder), nil
}

// declaredPort is the first port that a container of p declares.
func declaredPort(p *corev1.Pod) string {
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.ContainerPort > 0 {
				return strconv.Itoa(int(port.ContainerPort))
			}
		}
	}
	return ""
}
