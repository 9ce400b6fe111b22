package pod

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/resource/connect"
)

// streamREST passes connections on to the kubelet of the Pod's node. Whatever the HTTP method, who opens one must be
// allowed to create the subresource.
type streamREST struct {
	pods rest.Getter
	env  resource.Env
	// options makes what the query is decoded into; handler takes it.
	options func() runtime.Object
	handler func(ctx context.Context, r *streamREST, p *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error)
}

var _ rest.Connecter = (*streamREST)(nil)

func newExec(pods rest.Getter, env resource.Env) rest.Storage {
	return &streamREST{pods, env, func() runtime.Object { return &corev1.PodExecOptions{} }, exec}
}

func newAttach(pods rest.Getter, env resource.Env) rest.Storage {
	return &streamREST{pods, env, func() runtime.Object { return &corev1.PodAttachOptions{} }, attach}
}

func newPortForward(pods rest.Getter, env resource.Env) rest.Storage {
	return &streamREST{pods, env, func() runtime.Object { return &corev1.PodPortForwardOptions{} }, portForward}
}

func (r *streamREST) New() runtime.Object      { return r.options() }
func (r *streamREST) Destroy()                 {}
func (r *streamREST) ConnectMethods() []string { return connect.StreamMethods() }

func (r *streamREST) NewConnectOptions() (runtime.Object, bool, string) {
	return r.options(), false, ""
}

func (r *streamREST) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := connect.RequireCreate(ctx, r.env.Authorizer); err != nil {
		return nil, err
	}
	p, err := get(ctx, r.pods, name)
	if err != nil {
		return nil, err
	}
	return r.handler(ctx, r, p, options, responder)
}

// placed checks that a Pod is on a node.
func placed(p *corev1.Pod) error {
	if p.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	}
	return nil
}

func exec(ctx context.Context, r *streamREST, p *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodExecOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	streams := translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
	query := streamQuery(streams)
	for _, word := range o.Command {
		query.Add(corev1.ExecCommandParam, word)
	}
	return inContainer(ctx, r, p, "exec", o.Container, query, streams, responder)
}

func attach(ctx context.Context, r *streamREST, p *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodAttachOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	streams := translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
	return inContainer(ctx, r, p, "attach", o.Container, streamQuery(streams), streams, responder)
}

func inContainer(ctx context.Context, r *streamREST, p *corev1.Pod, verb, container string, query url.Values,
	streams translator.Options, responder rest.Responder) (http.Handler, error) {
	container, err := chooseContainer(p, container)
	if err != nil {
		return nil, err
	}
	if err := placed(p); err != nil {
		return nil, err
	}
	location, transport, err := onKubelet(ctx, r.env, p, fmt.Sprintf("/%s/%s/%s/%s", verb, p.Namespace, p.Name, container), query)
	if err != nil {
		return nil, err
	}
	return connect.Stream(location, transport, responder, streams), nil
}

func streamQuery(s translator.Options) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{
		corev1.ExecStdinParam: s.Stdin, corev1.ExecStdoutParam: s.Stdout, corev1.ExecStderrParam: s.Stderr, corev1.ExecTTYParam: s.Tty,
	} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

func portForward(ctx context.Context, r *streamREST, p *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodPortForwardOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if err := placed(p); err != nil {
		return nil, err
	}
	query := url.Values{}
	if len(o.Ports) > 0 {
		ports := make([]string, len(o.Ports))
		for i, port := range o.Ports {
			ports[i] = strconv.Itoa(int(port))
		}
		query.Set("port", strings.Join(ports, ","))
	}
	location, transport, err := onKubelet(ctx, r.env, p, fmt.Sprintf("/portForward/%s/%s", p.Namespace, p.Name), query)
	if err != nil {
		return nil, err
	}
	return connect.Tunnel(location, transport, responder), nil
}
