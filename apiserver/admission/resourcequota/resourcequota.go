// Package resourcequota charges what is created to the ResourceQuotas of its namespace, and refuses what they have no room
// for. The arithmetic and the batching of concurrent requests are k8s.io/apiserver's; what objects cost is in
// api/resource/quota.
package resourcequota

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/peapod/peapod/api/resource/quota"
)

// workers is how many namespaces are charged at once, as upstream.
const workers = 5

// Plugin is the plugin.
type Plugin struct {
	*resourcequota.QuotaAdmission
	quotas corelisters.ResourceQuotaLister
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin. Its workers start with the first request that a quota concerns, and end when ended is closed.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, ended <-chan struct{}) (*Plugin, error) {
	p, err := resourcequota.NewResourceQuota(nil, workers)
	if err != nil {
		return nil, fmt.Errorf("make admission plugin %s: %w", resourcequota.PluginName, err)
	}
	p.SetDrainedNotification(ended)
	p.SetExternalKubeClientSet(client)
	p.SetExternalKubeInformerFactory(factory)
	p.SetQuotaConfiguration(generic.NewConfiguration(quota.Measured(nil, devices{client}), quota.Ignored()))
	if err := p.ValidateInitialization(); err != nil {
		return nil, fmt.Errorf("make admission plugin %s: %w", resourcequota.PluginName, err)
	}
	return &Plugin{p, factory.Core().V1().ResourceQuotas().Lister()}, nil
}

// Validate charges the request. Where there is no quota, it costs a look into an index and no hand-over to a worker.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetNamespace() == "" {
		return nil
	}
	list, err := p.quotas.ResourceQuotas(a.GetNamespace()).List(labels.Everything())
	if err == nil && len(list) == 0 {
		return nil
	}
	return p.QuotaAdmission.Validate(ctx, a, o)
}
