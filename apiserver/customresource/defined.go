package customresource

import (
	"cmp"
	"slices"
	"sync/atomic"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	informers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/client-go/tools/cache"
)

// Defined is what is defined just now.
type Defined struct {
	definitions listers.CustomResourceDefinitionLister
	generation  atomic.Int64
	informer    cache.SharedIndexInformer
}

func newDefined(informer informers.CustomResourceDefinitionInformer) (*Defined, error) {
	d := &Defined{definitions: informer.Lister(), informer: informer.Informer()}
	return d, d.OnChange(func([]*apiextensionsv1.CustomResourceDefinition) { d.generation.Add(1) })
}

// OnChange has f called with what is established whenever that may have changed, one call after the other. It must be called before the
// server runs.
func (d *Defined) OnChange(f func([]*apiextensionsv1.CustomResourceDefinition)) error {
	changed := func() { f(d.Established()) }
	_, err := d.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(old, new any) {
			o, n := old.(*apiextensionsv1.CustomResourceDefinition), new.(*apiextensionsv1.CustomResourceDefinition)
			if o.Generation != n.Generation || established(o) != established(n) {
				changed()
			}
		},
		DeleteFunc: func(any) { changed() },
	})
	return err
}

// Known is closed once what was defined when the server started is known.
func (d *Defined) Known() <-chan struct{} { return d.informer.HasSyncedChecker().Done() }

// Generation is another one after each change.
func (d *Defined) Generation() int64 { return d.generation.Load() }

// Established lists the definitions whose kinds are served, in the order of their names. They are read-only.
func (d *Defined) Established() []*apiextensionsv1.CustomResourceDefinition {
	all, err := d.definitions.List(labels.Everything())
	if err != nil {
		return nil // A lister that reads memory does not fail.
	}
	out := slices.DeleteFunc(slices.Clone(all), func(crd *apiextensionsv1.CustomResourceDefinition) bool { return !established(crd) })
	slices.SortFunc(out, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
}

// lister keeps the groups of custom resources in a list of groups.
type lister struct {
	to      discovery.GroupManager
	builtin func(group string) bool
	listed  map[string]bool
}

func (l lister) update(crds []*apiextensionsv1.CustomResourceDefinition) {
	versions := map[string][]string{}
	for _, crd := range crds {
		if l.builtin(crd.Spec.Group) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served && !slices.Contains(versions[crd.Spec.Group], v.Name) {
				versions[crd.Spec.Group] = append(versions[crd.Spec.Group], v.Name)
			}
		}
	}
	for group := range l.listed {
		if versions[group] == nil {
			l.to.RemoveGroup(group)
			delete(l.listed, group)
		}
	}
	for group, names := range versions {
		slices.SortFunc(names, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
		api := metav1.APIGroup{Name: group}
		for _, name := range names {
			api.Versions = append(api.Versions, metav1.GroupVersionForDiscovery{GroupVersion: group + "/" + name, Version: name})
		}
		api.PreferredVersion = api.Versions[0]
		l.to.AddGroup(api)
		l.listed[group] = true
	}
}
