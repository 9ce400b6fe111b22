// Package taintnodesbycondition has new nodes begin tainted as not ready, so that nothing is scheduled on them before
// their state is known.
package taintnodesbycondition

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
)

// Plugin is the admission plugin TaintNodesByCondition.
type Plugin struct{ *admission.Handler }

var _ admission.MutationInterface = Plugin{}

// New makes the plugin.
func New() Plugin { return Plugin{admission.NewHandler(admission.Create)} }

// Admit adds the taint to a Node.
func (Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("nodes") || a.GetSubresource() != "" {
		return nil
	}
	node, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return admission.NewForbidden(a, apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.GetObject())))
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].MatchTaint(&taint) {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, taint)
	return nil
}
