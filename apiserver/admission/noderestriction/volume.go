package noderestriction

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"

	"github.com/peapod/peapod/internal/localpath"
)

// ownVolume lets a node say two things about a volume that the built-in provisioner has put on it: that it has made its
// directory, and, by taking a finalizer off, that it has removed it.
func ownVolume(r request) error {
	if r.GetOperation() != admission.Update || r.GetSubresource() != "" {
		return r.forbid("node %q may only patch persistent volumes", r.node)
	}
	now, ok := r.GetObject().(*corev1.PersistentVolume)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	old, ok := r.GetOldObject().(*corev1.PersistentVolume)
	if !ok {
		return r.mistyped(r.GetOldObject())
	}
	if !localpath.Ours(old, r.node) {
		return r.forbid("node %q can only modify persistent volumes that %s has put on it", r.node, localpath.Provisioner)
	}
	want := old.DeepCopy()
	want.ManagedFields, want.ResourceVersion, want.Generation = now.ManagedFields, now.ResourceVersion, now.Generation
	if now.Annotations[localpath.MadeAnnotation] == "true" {
		want.Annotations[localpath.MadeAnnotation] = "true"
	}
	if !slices.Contains(now.Finalizers, localpath.Finalizer) && localpath.Doomed(old) {
		want.Finalizers = slices.DeleteFunc(want.Finalizers, func(f string) bool { return f == localpath.Finalizer })
	}
	if !equality.Semantic.DeepEqual(want, now) {
		return r.forbid("node %q can only set the annotation %s of a persistent volume and, once its claim is gone, remove the finalizer %s",
			r.node, localpath.MadeAnnotation, localpath.Finalizer)
	}
	return nil
}
