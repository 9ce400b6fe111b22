// Package podtopologylabels gives a Pod that gets its node that node's zone and region as labels, so that what runs in it
// can learn them through the downward API.
package podtopologylabels

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Plugin is the admission plugin PodTopologyLabels.
type Plugin struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var _ admission.MutationInterface = &Plugin{}

// New makes the plugin.
func New(nodes corelisters.NodeLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create), nodes}
}

// Admit adds the labels to a binding, which hands them to its Pod, or to a Pod that comes with a node. Labels that are there
// stay as they are.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	var node string
	var meta *metav1.ObjectMeta
	switch obj := a.GetObject().(type) {
	case *corev1.Pod:
		if a.GetSubresource() == "" {
			node, meta = obj.Spec.NodeName, &obj.ObjectMeta
		}
	case *corev1.Binding:
		if a.GetSubresource() == "binding" && obj.Target.Kind == "Node" {
			node, meta = obj.Target.Name, &obj.ObjectMeta
		}
	}
	if node == "" {
		return nil
	}
	n, err := p.nodes.Get(node)
	if apierrors.IsNotFound(err) {
		return nil // nobody has to know its node's topology to run
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", node, err)
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := n.Labels[key]
		if _, has := meta.Labels[key]; !ok || has {
			continue
		}
		if meta.Labels == nil {
			meta.Labels = map[string]string{}
		}
		meta.Labels[key] = value
	}
	return nil
}
