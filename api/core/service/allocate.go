package service

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/resource"
)

// reservation is what one write takes from the cluster's pools. All of it is given back if the write fails; what the
// object lets go of is released only once the write has succeeded.
type reservation struct {
	env   resource.Env
	owner types.NamespacedName
	dry   bool
	taken []func()
	let   []func()
}

func reserve(env resource.Env, obj *corev1.Service, dry bool) *reservation {
	return &reservation{env: env, owner: ownerOf(obj), dry: dry}
}

func ownerOf(obj *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}
}

func (r *reservation) settle(ok bool) {
	undo := r.taken
	if ok {
		undo = r.let
	}
	for _, release := range undo {
		release()
	}
	r.taken, r.let = nil, nil
}

// finish ends the Begin of a write: err undoes everything at once, and a dry run keeps nothing beyond the call.
func (r *reservation) finish(err error) (func(bool), error) {
	if err != nil {
		r.settle(false)
		return nil, err
	}
	if r.dry {
		r.settle(false)
		return func(bool) {}, nil
	}
	return r.settle, nil
}

// takeIP reserves the i-th cluster IP: the one that the user names, or any.
func (r *reservation) takeIP(obj *corev1.Service, i int) error {
	spec := &obj.Spec
	wanted := spec.ClusterIPs[i]
	ip, err := r.env.ServiceIPs.Allocate(resource.IPClaim{Owner: r.owner, Family: spec.IPFamilies[i], IP: wanted, Dry: r.dry})
	if err != nil && wanted == "" {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", obj.Name, err))
	}
	if err != nil {
		return invalid(obj, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs,
			fmt.Sprintf("failed to allocate IP %v: %v", wanted, err))})
	}
	if !r.dry {
		r.taken = append(r.taken, func() { r.env.ServiceIPs.Release(r.owner, ip) })
	}
	if wanted == "" {
		spec.ClusterIPs[i] = ip
	}
	if i == 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	return nil
}

func (r *reservation) takePort(port int32) (int32, error) {
	got, err := r.env.NodePorts.Allocate(port)
	if err != nil {
		return 0, err
	}
	r.taken = append(r.taken, func() { r.env.NodePorts.Release(got) })
	return got, nil
}

func (r *reservation) letIP(ip string) {
	r.let = append(r.let, func() { r.env.ServiceIPs.Release(r.owner, ip) })
}

func (r *reservation) letPort(port int32) {
	r.let = append(r.let, func() { r.env.NodePorts.Release(port) })
}

// BeginCreate gives a new Service its addresses and ports.
func (kind) BeginCreate(_ context.Context, env resource.Env, obj *corev1.Service, dry bool) (func(bool), error) {
	if len(kind{}.ValidateName(obj.Name, false)) > 0 {
		return func(bool) {}, nil // Validation refuses it; no address can be taken in such a name.
	}
	r := reserve(env, obj, dry)
	normalize(obj, nil)
	err := decideFamilies(obj, nil, env.ServiceIPs.Families())
	if err == nil {
		err = r.takeIPs(obj)
	}
	if err == nil {
		err = r.takePorts(obj, nil)
	}
	return r.finish(err)
}

// BeginUpdate follows what the update changes, up to a change of type, which gains or loses addresses and ports.
func (kind) BeginUpdate(_ context.Context, env resource.Env, obj, old *corev1.Service, dry bool) (func(bool), error) {
	r := reserve(env, obj, dry)
	keepAllocated(obj, old)
	normalize(obj, old)
	err := decideFamilies(obj, old, env.ServiceIPs.Families())
	if err == nil {
		err = r.changeIPs(obj, old)
	}
	if err == nil {
		err = r.takePorts(obj, old)
	}
	return r.finish(err)
}

// Restore takes again what a stored Service has. A Service that has what it cannot have (the ports were changed, or two
// were stored with one port) keeps it and is told of in the log: it must not keep the server from starting.
func (kind) Restore(env resource.Env, obj *corev1.Service) error {
	logger := klog.Background()
	for _, ip := range realIPs(obj) {
		if err := env.ServiceIPs.Hold(ownerOf(obj), ip); err != nil {
			return err
		}
	}
	for _, port := range hostPorts(obj) {
		if _, err := env.NodePorts.Allocate(port); err != nil {
			logger.Error(err, "A stored service has a node port that it should not have; recreate it",
				"service", klog.KObj(obj), "nodePort", port)
		}
	}
	return nil
}

// Released gives back what a deleted Service had, and removes its Endpoints, lest a Service that takes the name next
// sends traffic to them.
func (kind) Released(env resource.Env, obj *corev1.Service) {
	for _, ip := range realIPs(obj) {
		env.ServiceIPs.Release(ownerOf(obj), ip)
	}
	for _, port := range hostPorts(obj) {
		env.NodePorts.Release(port)
	}
	if env.Store == nil {
		return
	}
	endpoints := env.Store(corev1.Resource("endpoints"))
	if endpoints == nil {
		return
	}
	ctx := genericapirequest.WithNamespace(genericapirequest.NewContext(), obj.Namespace)
	_, _, err := endpoints.Delete(ctx, obj.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Cannot delete the endpoints of a deleted service", "service", klog.KObj(obj))
	}
}

// realIPs are the cluster IPs that came from the pool.
func realIPs(obj *corev1.Service) []string {
	if !wantsClusterIP(obj) || headless(obj) {
		return nil
	}
	return obj.Spec.ClusterIPs
}

// takeIPs reserves an address of each family.
func (r *reservation) takeIPs(obj *corev1.Service) error {
	if !wantsClusterIP(obj) || headless(obj) {
		return nil
	}
	obj.Spec.ClusterIPs = slices.Clone(obj.Spec.ClusterIPs)
	for i := range obj.Spec.IPFamilies {
		if i == len(obj.Spec.ClusterIPs) {
			obj.Spec.ClusterIPs = append(obj.Spec.ClusterIPs, "")
		}
		if err := r.takeIP(obj, i); err != nil {
			return err
		}
	}
	return nil
}

// changeIPs reserves or releases what the update adds or drops: everything when the type becomes or was ExternalName,
// else only the second address. The first one never changes, and None stays None.
func (r *reservation) changeIPs(obj, old *corev1.Service) error {
	switch {
	case keepsDualStack(obj, old):
	case !wantsClusterIP(old):
		return r.takeIPs(obj)
	case headless(old):
	case !wantsClusterIP(obj):
		for _, ip := range old.Spec.ClusterIPs {
			r.letIP(ip)
		}
	case len(old.Spec.IPFamilies) == 1 && len(obj.Spec.IPFamilies) == 2:
		obj.Spec.ClusterIPs = slices.Clone(obj.Spec.ClusterIPs)
		if len(obj.Spec.ClusterIPs) == 0 {
			return nil // Validation says that the first one may not be unset.
		}
		if len(obj.Spec.ClusterIPs) == 1 {
			obj.Spec.ClusterIPs = append(obj.Spec.ClusterIPs, "")
		}
		return r.takeIP(obj, 1)
	case len(old.Spec.IPFamilies) == 2 && len(obj.Spec.IPFamilies) == 1 && len(old.Spec.ClusterIPs) == 2:
		r.letIP(old.Spec.ClusterIPs[1])
	}
	return nil
}
