package service

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/resource/connect"
)

// Subresources lists the parts of a Service, beyond status, that have storage of their own.
func Subresources() []resource.Subresource {
	return []resource.Subresource{
		{Name: "proxy", Build: func(p resource.Parent, env resource.Env) rest.Storage { return &proxyREST{p.Main, env} }},
	}
}

// proxyREST passes HTTP requests on to one of the Pods behind a Service. Name is "[scheme:]name[:port]", port a name or a
// number of the Service's ports.
type proxyREST struct {
	services rest.Getter
	env      resource.Env
}

var _ rest.Connecter = (*proxyREST)(nil)

func (r *proxyREST) New() runtime.Object      { return &corev1.ServiceProxyOptions{} }
func (r *proxyREST) Destroy()                 {}
func (r *proxyREST) ConnectMethods() []string { return connect.ProxyMethods() }

func (r *proxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.ServiceProxyOptions{}, true, "path"
}

func (r *proxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.ServiceProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if r.env.Nodes == nil {
		return nil, apierrors.NewServiceUnavailable("this server does not connect to Pods")
	}
	location, err := r.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, o.Path)
	return connect.Proxy(location, r.env.Nodes.Pods(), responder), nil
}

// backend is an address behind a Service.
type backend struct {
	ip, port string
	target   *corev1.ObjectReference
}

func (r *proxyREST) locate(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	obj, err := r.services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	svc := obj.(*corev1.Service)
	if number, err := strconv.ParseInt(port, 10, 64); err == nil {
		i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return int64(p.Port) == number })
		if i < 0 {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
		port = svc.Spec.Ports[i].Name
	}
	backends, err := r.backends(ctx, name, port)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(backends), func(i, j int) { backends[i], backends[j] = backends[j], backends[i] })
	for _, b := range backends {
		if r.check(ctx, b) == nil {
			return &url.URL{Scheme: scheme, Host: net.JoinHostPort(b.ip, b.port)}, nil
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
}

// backends reads the ready addresses behind the Service's port of that name, from its EndpointSlices where the server has
// such, else from its Endpoints.
func (r *proxyREST) backends(ctx context.Context, name, port string) ([]backend, error) {
	if kind := r.env.Store(discoveryv1.Resource("endpointslices")); kind != nil {
		list, err := kind.List(ctx, &metainternalversion.ListOptions{
			LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
		})
		if err != nil {
			return nil, err
		}
		var found []backend
		err = meta.EachListItem(list, func(obj runtime.Object) error {
			found = append(found, ofSlice(obj.(*discoveryv1.EndpointSlice), port)...)
			return nil
		})
		return found, err
	}
	endpoints := r.env.Store(schema.GroupResource{Resource: "endpoints"})
	if endpoints == nil {
		return nil, nil
	}
	obj, err := endpoints.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var found []backend
	//lint:ignore SA1019 Endpoints are deprecated, and still part of the API.
	for _, subset := range obj.(*corev1.Endpoints).Subsets {
		for _, p := range subset.Ports {
			if p.Name != port {
				continue
			}
			for _, a := range subset.Addresses {
				found = append(found, backend{a.IP, strconv.Itoa(int(p.Port)), a.TargetRef})
			}
		}
	}
	return found, nil
}

func ofSlice(s *discoveryv1.EndpointSlice, port string) []backend {
	var found []backend
	for _, p := range s.Ports {
		if p.Port == nil || (p.Name == nil && port != "") || (p.Name != nil && *p.Name != port) {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, ip := range e.Addresses {
				found = append(found, backend{ip, strconv.Itoa(int(*p.Port)), e.TargetRef})
			}
		}
	}
	return found
}

// check makes sure that the address is that of a Pod of the namespace: whoever may write endpoints does not thereby get
// to send the server's requests anywhere.
func (r *proxyREST) check(ctx context.Context, b backend) error {
	if err := connect.CheckAddress(b.ip); err != nil {
		return err
	}
	pods := r.env.Store(schema.GroupResource{Resource: "pods"})
	if b.target == nil || pods == nil {
		return fmt.Errorf("address %s is that of no Pod", b.ip)
	}
	if b.target.Namespace != request.NamespaceValue(ctx) {
		return fmt.Errorf("address %s belongs to another namespace", b.ip)
	}
	obj, err := pods.Get(ctx, b.target.Name, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, ip := range obj.(*corev1.Pod).Status.PodIPs {
		if ip.IP == b.ip {
			return nil
		}
	}
	return fmt.Errorf("pod %s does not have the address %s", b.target.Name, b.ip)
}
