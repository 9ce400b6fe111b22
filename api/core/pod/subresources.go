package pod

import (
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
)

// Subresources lists the parts of a Pod, beyond status, that have storage of their own.
func Subresources() []resource.Subresource {
	return []resource.Subresource{
		{Name: "attach", Build: func(p resource.Parent, env resource.Env) rest.Storage { return newAttach(p.Main, env) }},
		{Name: "binding", Build: func(p resource.Parent, _ resource.Env) rest.Storage { return &bindingREST{p.Main} }},
		{Name: "ephemeralcontainers", Build: func(p resource.Parent, _ resource.Env) rest.Storage { return newEphemeral(p.Main) }},
		{Name: "eviction", Build: func(p resource.Parent, env resource.Env) rest.Storage { return &evictionREST{p.Main, env} }},
		{Name: "exec", Build: func(p resource.Parent, env resource.Env) rest.Storage { return newExec(p.Main, env) }},
		{Name: "log", Build: func(p resource.Parent, env resource.Env) rest.Storage { return &logREST{p.Main, env} }},
		{Name: "portforward", Build: func(p resource.Parent, env resource.Env) rest.Storage { return newPortForward(p.Main, env) }},
		{Name: "proxy", Build: func(p resource.Parent, env resource.Env) rest.Storage { return &proxyREST{p.Main, env} }},
		{Name: "resize", Build: func(p resource.Parent, _ resource.Env) rest.Storage { return newResize(p.Main) }},
	}
}
