// Package binding declares core/v1 Binding as a resource of its own: POST of one to a namespace's bindings puts the Pod of
// its name on a node, exactly as POST to that Pod's subresource does. Nothing is stored.
package binding

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/core/pod"
	"github.com/peapod/peapod/api/resource"
)

// kind has no behaviour: the Pod's subresource checks and does all.
type kind struct{}

// Declaration declares core/v1 Binding.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Binding](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("Binding"),
		Plural:     "bindings",
		Namespaced: true,
		Virtual:    func(env resource.Env) rest.Storage { return &storage{env} },
	}, nil, kind{})
}

// storage creates bindings, and nothing else can be done with them.
type storage struct{ env resource.Env }

var (
	_ rest.Scoper               = (*storage)(nil)
	_ rest.Creater              = (*storage)(nil)
	_ rest.SingularNameProvider = (*storage)(nil)
)

func (s *storage) New() runtime.Object     { return &corev1.Binding{} }
func (s *storage) Destroy()                {}
func (s *storage) NamespaceScoped() bool   { return true }
func (s *storage) GetSingularName() string { return "binding" }

// Create puts the Pod that has the binding's name on the binding's target. It answers with a Status.
func (s *storage) Create(ctx context.Context, obj runtime.Object, valid rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	b, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	return pod.Binding(s.env.Store(corev1.Resource("pods"))).Create(ctx, b.Name, b, valid, o)
}
