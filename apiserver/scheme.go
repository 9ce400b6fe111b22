package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
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
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/registry/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/registry"
)

// vocabulary lists the published Go types of every group version that is served, or whose types others refer to.
func vocabulary() []func(*runtime.Scheme) error {
	return []func(*runtime.Scheme) error{
		corev1.AddToScheme, admissionregistrationv1.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme, appsv1.AddToScheme,
		authenticationv1.AddToScheme,
		authorizationv1.AddToScheme, autoscalingv2.AddToScheme, autoscalingv1.AddToScheme, batchv1.AddToScheme,
		certificatesv1.AddToScheme, coordinationv1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
		resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme, metricsv1beta1.AddToScheme,
	}
}

// externalScheme knows the types in the versions in which clients see them, and no others.
func externalScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range vocabulary() {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("register API types: %w", err)
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s, nil
}

// newScheme returns the scheme that the server works with. There is one Go type for each served version and no separate
// internal one: the type of the stored version is registered as the group's internal version too, which makes the
// conversion from one to the other a no-op. Kinds that are an alias have the internal type of what they stand for.
func newScheme(kinds []*resource.Declaration) (*runtime.Scheme, error) {
	s, err := externalScheme()
	if err != nil {
		return nil, err
	}
	for _, d := range kinds {
		if err := addKind(s, d); err != nil {
			return nil, fmt.Errorf("register %s: %w", d.GVK, err)
		}
	}
	addInternal(s)
	for _, group := range groupsOf(s) {
		if err := s.SetVersionPriority(versionsOf(s, group)...); err != nil {
			return nil, fmt.Errorf("order the versions of %q: %w", group, err)
		}
	}
	return s, nil
}

func addKind(s *runtime.Scheme, d *resource.Declaration) error {
	stored := d
	if d.AliasOf != nil {
		stored = d.AliasOf
	}
	if got := reflect.TypeOf(d.New()).Elem(); s.AllKnownTypes()[d.GVK] != got {
		s.AddKnownTypeWithName(d.GVK, d.New())
	}
	internal := schema.GroupVersion{Group: d.GVK.Group, Version: runtime.APIVersionInternal}
	s.AddKnownTypeWithName(internal.WithKind(d.GVK.Kind), stored.New())
	if d.NewList != nil {
		if s.AllKnownTypes()[d.GVK.GroupVersion().WithKind(d.GVK.Kind+"List")] == nil {
			s.AddKnownTypeWithName(d.GVK.GroupVersion().WithKind(d.GVK.Kind+"List"), d.NewList())
		}
		s.AddKnownTypeWithName(internal.WithKind(d.GVK.Kind+"List"), stored.NewList())
	}
	if f := d.Behaviour.Default; f != nil {
		s.AddTypeDefaultingFunc(d.New(), func(o any) { f(o.(runtime.Object)) })
		if d.NewList != nil {
			s.AddTypeDefaultingFunc(d.NewList(), func(o any) {
				// It fails on what is no list only.
				_ = meta.EachListItem(o.(runtime.Object), func(item runtime.Object) error { f(item); return nil })
			})
		}
	}
	if f := registry.FieldLabels(d); f != nil {
		if err := s.AddFieldLabelConversionFunc(d.GVK, f); err != nil {
			return err
		}
	}
	if d.Convert != nil {
		return d.Convert(s)
	}
	return nil
}

// addInternal makes every other type its group's internal version too, of two versions the newer. Types of
// apimachinery (options and such) have an internal version of their own.
func addInternal(s *runtime.Scheme) {
	for _, group := range groupsOf(s) {
		internal := schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
		for _, gv := range versionsOf(s, group) {
			for kind, t := range s.KnownTypes(gv) {
				if strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery/") || s.Recognizes(internal.WithKind(kind)) {
					continue
				}
				s.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(t).Interface().(runtime.Object))
			}
		}
	}
}

func groupsOf(s *runtime.Scheme) []string {
	seen := map[string]bool{}
	for gvk := range s.AllKnownTypes() {
		seen[gvk.Group] = true
	}
	groups := make([]string, 0, len(seen))
	for g := range seen {
		groups = append(groups, g)
	}
	slices.Sort(groups)
	return groups
}

// versionsOf returns the group's versions but the internal one, the newest and most stable first.
func versionsOf(s *runtime.Scheme, group string) []schema.GroupVersion {
	var versions []schema.GroupVersion
	for gvk := range s.AllKnownTypes() {
		gv := gvk.GroupVersion()
		if gv.Group == group && gv.Version != runtime.APIVersionInternal && !slices.Contains(versions, gv) {
			versions = append(versions, gv)
		}
	}
	slices.SortFunc(versions, func(a, b schema.GroupVersion) int {
		return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
	})
	return versions
}

// addParameters has the scheme decode the query of requests to those subresources that take options of their own.
func addParameters(s *runtime.Scheme, storages map[string]rest.Storage) error {
	add := func(options runtime.Object) error {
		if options == nil {
			return nil
		}
		err := s.AddConversionFunc((*url.Values)(nil), options, func(from, to any, _ conversion.Scope) error {
			return decodeQuery(*from.(*url.Values), to)
		})
		if err != nil {
			return fmt.Errorf("register the decoding of %T: %w", options, err)
		}
		return nil
	}
	for _, st := range storages {
		if c, ok := st.(rest.Connecter); ok {
			options, _, _ := c.NewConnectOptions()
			if err := add(options); err != nil {
				return err
			}
		}
		if g, ok := st.(rest.GetterWithOptions); ok {
			options, _, _ := g.NewGetOptions()
			if err := add(options); err != nil {
				return err
			}
		}
	}
	return nil
}
