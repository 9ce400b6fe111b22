// Package admission has the last word on writes: what is missing is filled in, and what must not be is refused. Each
// plugin is a folder; New is their order, which is Kubernetes'.
package admission

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/admission/alwayspullimages"
	"github.com/peapod/peapod/apiserver/admission/antiaffinitytopology"
	"github.com/peapod/peapod/apiserver/admission/certificates"
	"github.com/peapod/peapod/apiserver/admission/claimresize"
	"github.com/peapod/peapod/apiserver/admission/configuration"
	"github.com/peapod/peapod/apiserver/admission/defaultingressclass"
	"github.com/peapod/peapod/apiserver/admission/defaultstorageclass"
	"github.com/peapod/peapod/apiserver/admission/defaulttolerationseconds"
	"github.com/peapod/peapod/apiserver/admission/denyserviceexternalips"
	"github.com/peapod/peapod/apiserver/admission/hooks"
	"github.com/peapod/peapod/apiserver/admission/limitranger"
	"github.com/peapod/peapod/apiserver/admission/nodedeclaredfeatures"
	"github.com/peapod/peapod/apiserver/admission/noderestriction"
	"github.com/peapod/peapod/apiserver/admission/paramaccess"
	"github.com/peapod/peapod/apiserver/admission/podnodeselector"
	"github.com/peapod/peapod/apiserver/admission/podresize"
	"github.com/peapod/peapod/apiserver/admission/podsecurity"
	"github.com/peapod/peapod/apiserver/admission/podtopologylabels"
	"github.com/peapod/peapod/apiserver/admission/priority"
	"github.com/peapod/peapod/apiserver/admission/rbacescalation"
	"github.com/peapod/peapod/apiserver/admission/resourcequota"
	"github.com/peapod/peapod/apiserver/admission/runtimeclass"
	"github.com/peapod/peapod/apiserver/admission/serviceaccount"
	"github.com/peapod/peapod/apiserver/admission/storageobjectinuse"
	"github.com/peapod/peapod/apiserver/admission/taintnodesbycondition"
	"github.com/peapod/peapod/apiserver/authz/rbac"
	"github.com/peapod/peapod/apiserver/serviceaddress"
	"github.com/peapod/peapod/internal/kindmapper"
)

// Config is what the plugins decide by.
type Config struct {
	// Client asks the API for what an informer does not have yet. It is a member of system:masters. Dynamic is the same one's.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Informers has not been started yet.
	Informers informers.SharedInformerFactory
	// Authorizer and RBAC say what a user may do himself, for what he wants to give to others.
	Authorizer authorizer.Authorizer
	RBAC       *rbac.Evaluator
	// Configuration is what a user sets of plugins, and which are on.
	Configuration configuration.Configuration
	// Ended is closed once the server answers no more requests: what plugins run in the background ends with it.
	Ended <-chan struct{}
}

// New makes the chain of plugins.
func New(cfg Config) (admission.Interface, error) {
	if cfg.Client == nil || cfg.Dynamic == nil || cfg.Informers == nil || cfg.Authorizer == nil || cfg.RBAC == nil || cfg.Ended == nil {
		return nil, errors.New("make admission: Client, Dynamic, Informers, Authorizer, RBAC and Ended are needed")
	}
	core := cfg.Informers.Core().V1()
	namespaces, accounts, classes := core.Namespaces(), core.ServiceAccounts(), cfg.Informers.Scheduling().V1().PriorityClasses()
	runtimes, ingresses := cfg.Informers.Node().V1().RuntimeClasses(), cfg.Informers.Networking().V1().IngressClasses()
	storage := cfg.Informers.Storage().V1().StorageClasses()
	namespaceLifecycle, err := newNamespaceLifecycle(cfg)
	if err != nil {
		return nil, fmt.Errorf("make admission plugin %s: %w", lifecycle.PluginName, err)
	}
	serviceAccount, err := serviceaccount.New(cfg.Client, accounts)
	if err != nil {
		return nil, err
	}
	podSecurity, err := podsecurity.New(cfg.Client, namespaces.Lister(), core.Pods().Lister(), cfg.Configuration.PodSecurity)
	if err != nil {
		return nil, err
	}
	quotas, err := resourcequota.New(cfg.Client, cfg.Informers, cfg.Ended)
	if err != nil {
		return nil, err
	}
	kinds := kindmapper.New(cfg.Client.Discovery())
	users, err := hooks.New(hooks.Config{Client: cfg.Client, Dynamic: cfg.Dynamic, Informers: cfg.Informers, Kinds: kinds,
		Authorizer: cfg.Authorizer, Services: serviceaddress.New(cfg.Client.CoreV1()), Ended: cfg.Ended,
		MutatingWebhooks: cfg.Configuration.MutatingWebhooks, ValidatingWebhooks: cfg.Configuration.ValidatingWebhooks})
	if err != nil {
		return nil, err
	}
	on := cfg.Configuration.Plugins.On
	return inOrder(on,
		named{lifecycle.PluginName, gate{namespaceLifecycle, known(namespaces.Informer())}},
		named{antiaffinitytopology.Name, antiaffinitytopology.New()},
		named{"LimitRanger", gate{limitranger.New(core.LimitRanges().Lister()), known(core.LimitRanges().Informer())}},
		named{"ServiceAccount", gate{serviceAccount, known(accounts.Informer())}},
		named{"NodeRestriction", noderestriction.New(cfg.Client, core.Pods().Lister(), core.Nodes().Lister(), cfg.Authorizer)},
		named{"TaintNodesByCondition", taintnodesbycondition.New()},
		named{alwayspullimages.Name, alwayspullimages.New()},
		named{"PodSecurity", gate{podSecurity, known(namespaces.Informer(), core.Pods().Informer())}},
		named{podnodeselector.Name, gate{podnodeselector.New(cfg.Client, namespaces.Lister(), cfg.Configuration.PodNodeSelector), known(namespaces.Informer())}},
		named{"Priority", gate{priority.New(cfg.Client, classes.Lister()), known(classes.Informer())}},
		named{"DefaultTolerationSeconds", defaulttolerationseconds.New()},
		named{"DefaultStorageClass", gate{defaultstorageclass.New(storage.Lister()), known(storage.Informer())}},
		named{"StorageObjectInUseProtection", storageobjectinuse.New()},
		named{"PersistentVolumeClaimResize", gate{claimresize.New(storage.Lister()), known(storage.Informer())}},
		named{"RuntimeClass", gate{runtimeclass.New(cfg.Client, runtimes.Lister()), known(runtimes.Informer())}},
		// Four plugins of upstream's, and a rule that is none there.
		named{builtIn, certificates.New(cfg.Authorizer, on)},
		named{"DefaultIngressClass", gate{defaultingressclass.New(ingresses.Lister()), known(ingresses.Informer())}},
		named{denyserviceexternalips.Name, denyserviceexternalips.New()},
		named{"PodTopologyLabels", gate{podtopologylabels.New(core.Nodes().Lister()), known(core.Nodes().Informer())}},
		named{"NodeDeclaredFeatureValidator", gate{nodedeclaredfeatures.New(core.Nodes().Lister()), known(core.Nodes().Informer())}},
		named{"PodResizeValidator", gate{podresize.New(core.Nodes().Lister()), known(core.Nodes().Informer())}},
		// Upstream's storage of these kinds does what follows.
		named{builtIn, rbacescalation.New(cfg.Client, cfg.Authorizer, cfg.RBAC)},
		named{builtIn, paramaccess.New(cfg.Client, cfg.Authorizer, kinds)},
		named{"MutatingAdmissionPolicy", onUse(users.MutatingPolicies)},
		named{"MutatingAdmissionWebhook", onUse(users.MutatingWebhooks)},
		named{"ValidatingAdmissionPolicy", onUse(users.ValidatingPolicies)},
		named{"ValidatingAdmissionWebhook", onUse(users.ValidatingWebhooks)},
		// The last: what it charges must not be refused by another.
		named{"ResourceQuota", gate{quotas, known(core.ResourceQuotas().Informer())}},
	)
}

// onUse has requests wait until it is known whether the plugin is used.
func onUse(p *hooks.OnUse) gate { return gate{p, []cache.DoneChecker{p.Synced()}} }

// known are done when the informers have their first list.
func known(i ...cache.SharedIndexInformer) []cache.DoneChecker {
	var needs []cache.DoneChecker
	for _, informer := range i {
		needs = append(needs, informer.HasSyncedChecker())
	}
	return needs
}

// builtIn is the name of what cannot be switched off.
const builtIn = ""

// named is a plugin with its name.
type named struct {
	name string
	admission.Interface
}

// inOrder is the chain of those plugins that are on. That what users may name is what there is, is checked: certificates is four of them.
func inOrder(on func(name string) bool, all ...named) (admission.Interface, error) {
	there := sets.New(certificates.Approval, certificates.Signing, certificates.SubjectRestriction, certificates.Attest)
	var chain []admission.Interface
	for _, p := range all {
		if p.name == builtIn || on(p.name) {
			chain = append(chain, p.Interface)
		}
		there.Insert(p.name)
	}
	options := sets.New(configuration.Default()...).Insert(configuration.Optional()...).Insert(builtIn)
	if odd := options.SymmetricDifference(there); len(odd) > 0 {
		return nil, fmt.Errorf("make admission: plugins %q are not both in the chain and in the options", sets.List(odd))
	}
	return twice{admission.NewChainHandler(chain...)}, nil
}

// twice asks the chain once more where a webhook or policy has changed the object, for what comes before those to see it, and those that
// want to be asked again. The plugins' Admit is idempotent.
type twice struct{ admission.Interface }

var (
	_ admission.MutationInterface   = twice{}
	_ admission.ValidationInterface = twice{}
)

// Admit is the chain's.
func (t twice) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	chain, ok := t.Interface.(admission.MutationInterface)
	if !ok {
		return nil
	}
	if err := chain.Admit(ctx, a, o); err != nil {
		return err
	}
	if again := a.GetReinvocationContext(); again.ShouldReinvoke() {
		again.SetIsReinvoke()
		return chain.Admit(ctx, a, o)
	}
	return nil
}

// Validate is the chain's.
func (t twice) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if chain, ok := t.Interface.(admission.ValidationInterface); ok {
		return chain.Validate(ctx, a, o)
	}
	return nil
}

// newNamespaceLifecycle makes Kubernetes' own plugin: nothing is made in a namespace that is not there or that is going.
func newNamespaceLifecycle(cfg Config) (admission.Interface, error) {
	l, err := lifecycle.NewLifecycle(sets.New(metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic))
	if err != nil {
		return nil, err
	}
	l.SetExternalKubeClientSet(cfg.Client)
	l.SetExternalKubeInformerFactory(cfg.Informers)
	return l, l.ValidateInitialization()
}
