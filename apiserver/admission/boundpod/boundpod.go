// Package boundpod is what admission plugins share that look at changes of Pods which have a node.
package boundpod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Changed returns a Pod on a node before and after an update of its spec, both nil where a is none. The error is one to answer with.
func Changed(a admission.Attributes) (old, pod *corev1.Pod, err error) {
	pod, ok := a.GetObject().(*corev1.Pod)
	old, okOld := a.GetOldObject().(*corev1.Pod)
	if !ok || !okOld {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("expected a pod but got a %T", a.GetObject()))
	}
	if pod.Spec.NodeName == "" || pod.Generation == old.Generation { // the generation rises with each change of the spec
		return nil, nil, nil
	}
	return old, pod, nil
}

// Node returns the Pod's node. The error is one to answer with.
func Node(a admission.Attributes, nodes corelisters.NodeLister, pod *corev1.Pod) (*corev1.Node, error) {
	node, err := nodes.Get(pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return nil, admission.NewForbidden(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	case err != nil:
		return nil, admission.NewForbidden(a, fmt.Errorf("failed to get node %q: %w", pod.Spec.NodeName, err))
	}
	return node, nil
}
