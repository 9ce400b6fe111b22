// Package alwayspullimages has every image pulled anew, so that nobody runs a private one for which he has no credentials because
// another's Pod has brought it to the node.
package alwayspullimages

import (
	"context"
	"fmt"
	"iter"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
)

// Name is the plugin's.
const Name = "AlwaysPullImages"

// Plugin is the admission plugin.
type Plugin struct{ *admission.Handler }

var (
	_ admission.MutationInterface   = Plugin{}
	_ admission.ValidationInterface = Plugin{}
)

// New makes the plugin.
func New() Plugin { return Plugin{admission.NewHandler(admission.Create, admission.Update)} }

// Admit sets the policy of every image of a Pod that is new, or that gets an image which it did not have.
func (Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := judged(a)
	if pod == nil || err != nil {
		return err
	}
	for _, policy := range policies(pod) {
		*policy = corev1.PullAlways
	}
	return nil
}

// Validate refuses images for which another, a webhook for instance, has chosen differently since.
func (Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := judged(a)
	if pod == nil || err != nil {
		return err
	}
	var errs []error
	for path, policy := range policies(pod) {
		if *policy != corev1.PullAlways {
			errs = append(errs, admission.NewForbidden(a, field.NotSupported(path, *policy, []corev1.PullPolicy{corev1.PullAlways})))
		}
	}
	return utilerrors.NewAggregate(errs)
}

// judged returns the Pod that the request is about, nil if it is none or brings no new image.
func judged(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected *v1.Pod but got %T", a.GetObject()))
	}
	if old, ok := a.GetOldObject().(*corev1.Pod); ok && a.GetOperation() == admission.Update && images(old).IsSuperset(images(pod)) {
		return nil, nil
	}
	return pod, nil
}

func images(pod *corev1.Pod) sets.Set[string] {
	all := sets.New[string]()
	for _, c := range containers(pod) {
		all.Insert(c.Image)
	}
	return all
}

// containers are those of all three sorts, with the fields that they are in. What they have in common has the layout of an ordinary one.
func containers(pod *corev1.Pod) iter.Seq2[*field.Path, *corev1.Container] {
	return func(yield func(*field.Path, *corev1.Container) bool) {
		spec := field.NewPath("spec")
		for i := range pod.Spec.InitContainers {
			if !yield(spec.Child("initContainers").Index(i), &pod.Spec.InitContainers[i]) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(spec.Child("containers").Index(i), &pod.Spec.Containers[i]) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(spec.Child("ephemeralContainers").Index(i), c) {
				return
			}
		}
	}
}

// policies are those of the images of containers and volumes, with the fields that they are in.
func policies(pod *corev1.Pod) iter.Seq2[*field.Path, *corev1.PullPolicy] {
	return func(yield func(*field.Path, *corev1.PullPolicy) bool) {
		for path, c := range containers(pod) {
			if !yield(path.Child("imagePullPolicy"), &c.ImagePullPolicy) {
				return
			}
		}
		for i := range pod.Spec.Volumes {
			image := pod.Spec.Volumes[i].Image
			if image != nil && !yield(field.NewPath("spec", "volumes").Index(i).Child("image", "pullPolicy"), &image.PullPolicy) {
				return
			}
		}
	}
}
