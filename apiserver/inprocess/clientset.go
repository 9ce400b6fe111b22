package inprocess

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedadmissionregistrationv1 "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	typedappsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedautoscalingv1 "k8s.io/client-go/kubernetes/typed/autoscaling/v1"
	typedautoscalingv2 "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	typedbatchv1 "k8s.io/client-go/kubernetes/typed/batch/v1"
	typedcertificatesv1 "k8s.io/client-go/kubernetes/typed/certificates/v1"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	typeddiscoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	typedflowcontrolv1 "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
	typednetworkingv1 "k8s.io/client-go/kubernetes/typed/networking/v1"
	typednodev1 "k8s.io/client-go/kubernetes/typed/node/v1"
	typedpolicyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	typedrbacv1 "k8s.io/client-go/kubernetes/typed/rbac/v1"
	typedresourcev1 "k8s.io/client-go/kubernetes/typed/resource/v1"
	typedschedulingv1 "k8s.io/client-go/kubernetes/typed/scheduling/v1"
	typedstoragev1 "k8s.io/client-go/kubernetes/typed/storage/v1"
	"k8s.io/client-go/rest"
)

// clientset is a clientset whose watches share the server's objects, where it serves them in the version in which it stores them.
type clientset struct {
	kubernetes.Interface
	of map[schema.GroupVersion]rest.Interface
}

// served are the versions of the clients below: all that have kinds to watch.
var served = []schema.GroupVersion{
	admissionregistrationv1.SchemeGroupVersion,
	appsv1.SchemeGroupVersion,
	autoscalingv1.SchemeGroupVersion,
	autoscalingv2.SchemeGroupVersion,
	batchv1.SchemeGroupVersion,
	certificatesv1.SchemeGroupVersion,
	coordinationv1.SchemeGroupVersion,
	corev1.SchemeGroupVersion,
	discoveryv1.SchemeGroupVersion,
	eventsv1.SchemeGroupVersion,
	flowcontrolv1.SchemeGroupVersion,
	networkingv1.SchemeGroupVersion,
	nodev1.SchemeGroupVersion,
	policyv1.SchemeGroupVersion,
	rbacv1.SchemeGroupVersion,
	resourcev1.SchemeGroupVersion,
	schedulingv1.SchemeGroupVersion,
	storagev1.SchemeGroupVersion,
}

// NewClientset makes a clientset of a Transport's config for informers: watches get the storage's own objects, which are read-only
// beneath their first level, as those in informers are anyway. All else is as with kubernetes.NewForConfig.
func NewClientset(config *rest.Config) (kubernetes.Interface, error) {
	all, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	config, over, err := sharing(config)
	if err != nil {
		return nil, err
	}
	c := &clientset{Interface: all, of: make(map[schema.GroupVersion]rest.Interface, len(served))}
	for _, gv := range served {
		if c.of[gv], err = restClient(versioned(config, gv), nil, over); err != nil {
			return nil, fmt.Errorf("make a client of %s that shares the server's objects: %w", gv, err)
		}
	}
	return c, nil
}

// versioned is config for one version, as generated clients make it.
func versioned(config *rest.Config, gv schema.GroupVersion) *rest.Config {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &gv, "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return config
}

func (c *clientset) AdmissionregistrationV1() typedadmissionregistrationv1.AdmissionregistrationV1Interface {
	return typedadmissionregistrationv1.New(c.of[admissionregistrationv1.SchemeGroupVersion])
}

func (c *clientset) AppsV1() typedappsv1.AppsV1Interface {
	return typedappsv1.New(c.of[appsv1.SchemeGroupVersion])
}

func (c *clientset) AutoscalingV1() typedautoscalingv1.AutoscalingV1Interface {
	return typedautoscalingv1.New(c.of[autoscalingv1.SchemeGroupVersion])
}

func (c *clientset) AutoscalingV2() typedautoscalingv2.AutoscalingV2Interface {
	return typedautoscalingv2.New(c.of[autoscalingv2.SchemeGroupVersion])
}

func (c *clientset) BatchV1() typedbatchv1.BatchV1Interface {
	return typedbatchv1.New(c.of[batchv1.SchemeGroupVersion])
}

func (c *clientset) CertificatesV1() typedcertificatesv1.CertificatesV1Interface {
	return typedcertificatesv1.New(c.of[certificatesv1.SchemeGroupVersion])
}

func (c *clientset) CoordinationV1() typedcoordinationv1.CoordinationV1Interface {
	return typedcoordinationv1.New(c.of[coordinationv1.SchemeGroupVersion])
}

func (c *clientset) CoreV1() typedcorev1.CoreV1Interface {
	return typedcorev1.New(c.of[corev1.SchemeGroupVersion])
}

func (c *clientset) DiscoveryV1() typeddiscoveryv1.DiscoveryV1Interface {
	return typeddiscoveryv1.New(c.of[discoveryv1.SchemeGroupVersion])
}

func (c *clientset) EventsV1() typedeventsv1.EventsV1Interface {
	return typedeventsv1.New(c.of[eventsv1.SchemeGroupVersion])
}

func (c *clientset) FlowcontrolV1() typedflowcontrolv1.FlowcontrolV1Interface {
	return typedflowcontrolv1.New(c.of[flowcontrolv1.SchemeGroupVersion])
}

func (c *clientset) NetworkingV1() typednetworkingv1.NetworkingV1Interface {
	return typednetworkingv1.New(c.of[networkingv1.SchemeGroupVersion])
}

func (c *clientset) NodeV1() typednodev1.NodeV1Interface {
	return typednodev1.New(c.of[nodev1.SchemeGroupVersion])
}

func (c *clientset) PolicyV1() typedpolicyv1.PolicyV1Interface {
	return typedpolicyv1.New(c.of[policyv1.SchemeGroupVersion])
}

func (c *clientset) RbacV1() typedrbacv1.RbacV1Interface {
	return typedrbacv1.New(c.of[rbacv1.SchemeGroupVersion])
}

func (c *clientset) ResourceV1() typedresourcev1.ResourceV1Interface {
	return typedresourcev1.New(c.of[resourcev1.SchemeGroupVersion])
}

func (c *clientset) SchedulingV1() typedschedulingv1.SchedulingV1Interface {
	return typedschedulingv1.New(c.of[schedulingv1.SchemeGroupVersion])
}

func (c *clientset) StorageV1() typedstoragev1.StorageV1Interface {
	return typedstoragev1.New(c.of[storagev1.SchemeGroupVersion])
}
