// Package podnodeselector keeps the Pods of a namespace on the nodes that its annotation, or the plugin's configuration, says.
package podnodeselector

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/yaml"
)

// Name is the plugin's.
const Name = "PodNodeSelector"

// annotation of a namespace has the labels of its nodes; clusterDefault is where the configuration has those of namespaces without it.
const (
	annotation     = "scheduler.alpha.kubernetes.io/node-selector"
	clusterDefault = "clusterDefaultNodeSelector"
)

// Configuration has the labels that the Pods of a namespace may ask for, by the namespace's name, and those that they get where the
// namespace says nothing, by name clusterDefaultNodeSelector.
type Configuration map[string]labels.Set

// Parse reads the plugin's part of the file of --admission-control-config-file.
func Parse(settings []byte) (Configuration, error) {
	var says struct {
		Config map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if err := yaml.UnmarshalStrict(settings, &says); err != nil {
		return nil, err
	}
	c := Configuration{}
	for name, text := range says.Config {
		set, err := labels.ConvertSelectorToLabelsMap(text)
		if err != nil {
			return nil, fmt.Errorf("podNodeSelectorPluginConfig.%s %q: %w", name, text, err)
		}
		c[name] = set
	}
	return c, nil
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	config     Configuration
}

var (
	_ admission.MutationInterface   = &Plugin{}
	_ admission.ValidationInterface = &Plugin{}
)

// New makes the plugin. Namespaces that the lister does not know yet are asked for.
func New(client kubernetes.Interface, namespaces corelisters.NamespaceLister, config Configuration) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create), client, namespaces, config}
}

// Admit adds the namespace's labels to the Pod's node selector.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, wanted, err := p.read(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	pod.Spec.NodeSelector = labels.Merge(wanted, pod.Spec.NodeSelector)
	return p.allow(a, pod)
}

// Validate refuses what another has changed since.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, _, err := p.read(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	return p.allow(a, pod)
}

// read returns the Pod, nil if the request is about something else, and the labels of its namespace, which it does not contradict.
func (p *Plugin) read(ctx context.Context, a admission.Attributes) (*corev1.Pod, labels.Set, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil, nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("expected *v1.Pod but got %T", a.GetObject()))
	}
	namespace, err := p.namespaces.Get(a.GetNamespace())
	if apierrors.IsNotFound(err) {
		namespace, err = p.client.CoreV1().Namespaces().Get(ctx, a.GetNamespace(), metav1.GetOptions{})
	}
	if err != nil {
		return nil, nil, err
	}
	wanted := p.config[clusterDefault]
	if text, ok := namespace.Annotations[annotation]; ok {
		if wanted, err = labels.ConvertSelectorToLabelsMap(text); err != nil {
			return nil, nil, admission.NewForbidden(a, fmt.Errorf("annotation %s of namespace %s: %w", annotation, namespace.Name, err))
		}
	}
	if labels.Conflicts(wanted, pod.Spec.NodeSelector) {
		return nil, nil, refuse(a, pod, "pod node label selector conflicts with its namespace node label selector")
	}
	return pod, wanted, nil
}

// allow refuses labels beyond those that the configuration has for the namespace, if it has any.
func (p *Plugin) allow(a admission.Attributes, pod *corev1.Pod) error {
	allowed := p.config[a.GetNamespace()]
	if len(allowed) == 0 {
		return nil
	}
	for key, value := range pod.Spec.NodeSelector {
		if has, ok := allowed[key]; !ok || has != value {
			return refuse(a, pod, "pod node label selector labels conflict with its namespace whitelist")
		}
	}
	return nil
}

func refuse(a admission.Attributes, pod *corev1.Pod, why string) error {
	return apierrors.NewForbidden(a.GetResource().GroupResource(), pod.Name, errors.New(why))
}
