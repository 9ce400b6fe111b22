// Package podresize refuses to resize a Pod to more than its node has, or on a node that cannot: waiting would not help.
package podresize

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/apiserver/admission/boundpod"
)

// The causes by which clients tell refusals apart.
const (
	causeCapacity metav1.CauseType = "NodeCapacity"
	causePlatform metav1.CauseType = "UnsupportedPlatform"
)

// Plugin is the admission plugin PodResizeValidator.
type Plugin struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin.
func New(nodes corelisters.NodeLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Update), nodes}
}

// Validate looks at resizes of Pods that have a node. How much room the node has left is for the node to say.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "resize" {
		return nil
	}
	_, pod, err := boundpod.Changed(a)
	if pod == nil || err != nil {
		return err
	}
	node, err := boundpod.Node(a, p.nodes, pod)
	if err != nil {
		return err
	}
	if system, known := node.Labels[corev1.LabelOSStable]; known && system != string(corev1.Linux) {
		return refuse(a, causePlatform, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system))
	}
	if missing := beyond(pod, node.Status.Allocatable); len(missing) > 0 {
		return refuse(a, causeCapacity, fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(missing, "; ")))
	}
	return nil
}

// beyond says of what the Pod requests more than there is: thousandths of CPU, bytes of memory.
func beyond(pod *corev1.Pod, allocatable corev1.ResourceList) (missing []string) {
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	if asked, have := requests.Cpu(), allocatable.Cpu(); asked.Cmp(*have) > 0 {
		missing = append(missing, fmt.Sprintf("cpu, requested: %d, allocatable: %d", asked.MilliValue(), have.MilliValue()))
	}
	if asked, have := requests.Memory(), allocatable.Memory(); asked.Cmp(*have) > 0 {
		missing = append(missing, fmt.Sprintf("memory, requested: %d, allocatable: %d", asked.Value(), have.Value()))
	}
	return missing
}

func refuse(a admission.Attributes, cause metav1.CauseType, err error) error {
	forbidden := admission.NewForbidden(a, err)
	var status *apierrors.StatusError
	if errors.As(forbidden, &status) && status.ErrStatus.Details != nil {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return forbidden
}
