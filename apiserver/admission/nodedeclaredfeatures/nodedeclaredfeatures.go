// Package nodedeclaredfeatures refuses changes of Pods that have a node, where the change needs a feature which the node does not
// declare: the Pod cannot go to another node any more.
package nodedeclaredfeatures

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/peapod/peapod/apiserver/admission/boundpod"
	"github.com/peapod/peapod/internal/version"
)

// Plugin is the admission plugin NodeDeclaredFeatureValidator.
type Plugin struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin.
func New(nodes corelisters.NodeLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Update), nodes}
}

// Validate looks at changes of Pods' specs, resizes among them.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" && a.GetSubresource() != "resize" {
		return nil
	}
	old, pod, err := boundpod.Changed(a)
	if pod == nil || err != nil {
		return err
	}
	needed, err := needs(old, pod)
	switch {
	case err != nil:
		return admission.NewForbidden(a, fmt.Errorf("failed to infer pod capability requirements: %w", err))
	case needed.IsEmpty():
		return nil
	}
	node, err := boundpod.Node(a, p.nodes, pod)
	if err != nil {
		return err
	}
	match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(needed, node)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
	}
	if !match.IsMatch {
		return admission.NewForbidden(a, fmt.Errorf("pod update requires features %s which are not available on node %q",
			strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}

// needs are the features that the change takes.
func needs(old, pod *corev1.Pod) (nodedeclaredfeatures.FeatureSet, error) {
	return nodedeclaredfeatures.DefaultFramework.InferForPodUpdate(
		&nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status}, &nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, version.Served)
}
