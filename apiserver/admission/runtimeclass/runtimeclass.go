// Package runtimeclass gives Pods what their RuntimeClass says: the overhead of running them, and where they can run.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	nodelisters "k8s.io/client-go/listers/node/v1"
)

// Plugin is the admission plugin RuntimeClass.
type Plugin struct {
	*admission.Handler
	client  kubernetes.Interface
	classes nodelisters.RuntimeClassLister
}

var (
	_ admission.MutationInterface   = &Plugin{}
	_ admission.ValidationInterface = &Plugin{}
)

// New makes the plugin.
func New(client kubernetes.Interface, classes nodelisters.RuntimeClassLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create), client, classes}
}

// Admit fills in overhead, node selector and tolerations.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := p.read(ctx, a)
	if pod == nil || class == nil || err != nil {
		return err
	}
	if o := class.Overhead; o != nil {
		if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(o.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errMismatch)
		}
		pod.Spec.Overhead = maps.Clone(o.PodFixed)
	}
	s := class.Scheduling
	if s == nil {
		return nil
	}
	for key, want := range s.NodeSelector {
		if has, ok := pod.Spec.NodeSelector[key]; ok && has != want {
			return admission.NewForbidden(a, fmt.Errorf(
				"conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, want, key, has))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = want
	}
	pod.Spec.Tolerations = merge(pod.Spec.Tolerations, s.Tolerations)
	return nil
}

var errMismatch = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

// Validate refuses an overhead that is not the class'.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := p.read(ctx, a)
	switch {
	case pod == nil || err != nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errMismatch)
		}
	case pod.Spec.Overhead != nil:
		return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// read returns the Pod that the request creates, nil if it creates none, and the Pod's class, nil if it names none.
func (p *Plugin) read(ctx context.Context, a admission.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	if a.GetSubresource() != "" || a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil, nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, nil, apierrors.NewBadRequest("Resource was marked with kind Pod but was unable to be converted")
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	class, err := p.classes.Get(name)
	if apierrors.IsNotFound(err) { // it may have been made a moment ago
		class, err = p.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read RuntimeClass %s: %w", name, err)
	}
	return pod, class, nil
}

// merge returns both lists without what another toleration covers, in their order.
func merge(first, second []corev1.Toleration) []corev1.Toleration {
	all := append(first[:len(first):len(first)], second...)
	var out []corev1.Toleration
	for i, t := range all {
		redundant := false
		for j, other := range all {
			// Of two that are the same, the first stays.
			same := equality.Semantic.DeepEqual(t, other)
			redundant = redundant || same && j < i || !same && covers(other, t)
		}
		if !redundant {
			out = append(out, t)
		}
	}
	return out
}

// covers says whether t tolerates nothing that by does not.
func covers(by, t corev1.Toleration) bool {
	if by.Key != t.Key && (by.Key != "" || by.Operator != corev1.TolerationOpExists) || by.Effect != "" && by.Effect != t.Effect {
		return false
	}
	if t.Effect == corev1.TaintEffectNoExecute && by.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *by.TolerationSeconds) {
		return false
	}
	switch by.Operator {
	case corev1.TolerationOpExists:
		return true
	case corev1.TolerationOpEqual, "":
		return (t.Operator == corev1.TolerationOpEqual || t.Operator == "") && t.Value == by.Value
	}
	return by.Operator == t.Operator && by.Value == t.Value
}
