// Package noderestriction holds what kubelets write to their own Node, Lease and CSINode and to the Pods bound to them.
// The node authorizer lets these requests through by their names; here their content is looked at.
package noderestriction

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/peapod/peapod/apiserver/authz/node"
)

// Plugin is the admission plugin NodeRestriction.
type Plugin struct {
	*admission.Handler
	client     kubernetes.Interface
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	authorizer authorizer.Authorizer
}

var _ admission.MutationInterface = &Plugin{}

// New makes the plugin. client asks for what the listers do not know; authorizer says for which other audiences a node
// may have tokens.
func New(client kubernetes.Interface, pods corelisters.PodLister, nodes corelisters.NodeLister, authorizer authorizer.Authorizer) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create, admission.Update, admission.Delete), client, pods, nodes, authorizer}
}

// request is one that a node sends.
type request struct {
	admission.Attributes
	node string
}

// forbid refuses it.
func (r request) forbid(format string, args ...any) error {
	return admission.NewForbidden(r.Attributes, fmt.Errorf(format, args...))
}

// mistyped refuses what holds an object of another kind than its path says.
func (r request) mistyped(obj any) error { return r.forbid("unexpected type %T", obj) }

// Admit refuses what a node may not do. It changes nothing, and comes before what does.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, isNode := node.Identity(a.GetUserInfo())
	if !isNode {
		return nil
	}
	if name == "" {
		return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	r := request{a, name}
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		switch a.GetSubresource() {
		case "":
			return p.pod(ctx, r)
		case "status":
			return podStatus(r)
		case "eviction":
			return p.eviction(ctx, r)
		}
		return r.forbid("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
	case corev1.Resource("nodes"):
		return ownNode(r)
	case corev1.Resource("persistentvolumeclaims"):
		if a.GetSubresource() != "status" {
			return r.forbid("may only update PVC status")
		}
		return claimStatus(r)
	case corev1.Resource("persistentvolumes"):
		return ownVolume(r)
	case corev1.Resource("serviceaccounts"):
		return p.token(ctx, r)
	case certificatesv1.Resource("podcertificaterequests"):
		return p.podCertificate(ctx, r)
	case coordinationv1.Resource("leases"):
		return ownLease(r)
	case storagev1.Resource("csinodes"):
		return ownCSINode(r)
	case resourceapi.Resource("resourceslices"):
		return ownSlice(r)
	}
	return nil
}

// podOn returns the Pod of that name. A kubelet acts at the moment at which a Pod is bound to it, when the lister may not
// know that yet: where the lister's Pod is not on the node, the API is asked.
func (p *Plugin) podOn(ctx context.Context, r request, name string) (*corev1.Pod, error) {
	pod, err := p.pods.Pods(r.GetNamespace()).Get(name)
	if err == nil && pod.Spec.NodeName == r.node {
		return pod, nil
	}
	pod, err = p.client.CoreV1().Pods(r.GetNamespace()).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(r.Attributes, err)
	}
	return pod, err
}

// ownNode keeps a node to its own Node object, and there from what steers workloads or removes restrictions.
func ownNode(r request) error {
	if r.GetName() != r.node {
		return r.forbid("node %q is not allowed to modify node %q", r.node, r.GetName())
	}
	if r.GetOperation() == admission.Delete {
		return nil
	}
	now, ok := r.GetObject().(*corev1.Node)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	if r.GetOperation() == admission.Create {
		return newNode(r, now)
	}
	old, ok := r.GetOldObject().(*corev1.Node)
	if !ok {
		return r.mistyped(r.GetOldObject())
	}
	return changedNode(r, now, old)
}

func ownLease(r request) error {
	if r.GetNamespace() != corev1.NamespaceNodeLease {
		return r.forbid("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	name := r.GetName()
	if r.GetOperation() == admission.Create {
		lease, ok := r.GetObject().(*coordinationv1.Lease)
		if !ok {
			return r.mistyped(r.GetObject())
		}
		name = lease.Name
	}
	if name != r.node {
		return r.forbid("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func ownCSINode(r request) error {
	name := r.GetName()
	if r.GetOperation() == admission.Create {
		m, err := meta.Accessor(r.GetObject())
		if err != nil {
			return r.forbid("unable to access the object name")
		}
		name = m.GetName()
	}
	if name != r.node {
		return r.forbid("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

// ownSlice looks at the node that a slice names: on a delete at the stored slice's. The name of the node cannot be changed,
// so that updates need no look.
func ownSlice(r request) error {
	obj, verb := r.GetObject(), "create"
	switch r.GetOperation() {
	case admission.Update:
		return nil
	case admission.Delete:
		obj, verb = r.GetOldObject(), "delete"
	}
	slice, ok := obj.(*resourceapi.ResourceSlice)
	if !ok {
		return r.mistyped(obj)
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != r.node {
		return r.forbid("can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return nil
}
