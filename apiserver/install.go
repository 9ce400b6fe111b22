package apiserver

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilmanagedfields "k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	openapiutil "k8s.io/kube-openapi/pkg/util"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/aggregation"
	"github.com/peapod/peapod/apiserver/customresource"
	"github.com/peapod/peapod/apiserver/encryption"
	"github.com/peapod/peapod/apiserver/registry"
)

const (
	legacyPrefix = "/api"
	groupsPrefix = "/apis"
	// minWatch is the shortest time after which the server ends a watch that asked for no other; it ends up to twice
	// that long, at random.
	minWatch = 30 * time.Minute
)

// install makes the storage of every kind and routes requests to it.
func (s *Server) install(custom *customresource.Server) error {
	byVersion := map[schema.GroupVersion]map[string]rest.Storage{}
	made := map[*resource.Declaration]*registry.Storage{}
	for _, d := range s.config.Kinds {
		st, err := s.storage(d, made)
		if err != nil {
			return err
		}
		made[d] = st
		s.storages = append(s.storages, st)
		gv := d.GVK.GroupVersion()
		if byVersion[gv] == nil {
			byVersion[gv] = map[string]rest.Storage{}
		}
		for p, r := range st.REST {
			if _, taken := byVersion[gv][p]; taken {
				return fmt.Errorf("set up %s: %s is served already", d.GVK, p)
			}
			byVersion[gv][p] = r
			s.generic.RegisterDestroyFunc(r.Destroy)
		}
		if err := addParameters(s.scheme, st.REST); err != nil {
			return fmt.Errorf("set up %s: %w", d.GVK, err)
		}
	}
	byGroup := map[string][]schema.GroupVersion{}
	for gv := range byVersion {
		byGroup[gv.Group] = append(byGroup[gv.Group], gv)
	}
	groups := []string{customresource.Group}
	for g := range byGroup {
		groups = append(groups, g)
	}
	// Discovery lists the groups in this order, and clients look names up in it that several of them have.
	priority := func(group string) int {
		p, _ := aggregation.Priority(schema.GroupVersion{Group: group})
		return p
	}
	slices.SortFunc(groups, func(a, b string) int {
		return cmp.Or(cmp.Compare(priority(b), priority(a)), cmp.Compare(a, b))
	})
	codecs := serializer.NewCodecFactory(s.scheme,
		serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf())
	for _, g := range groups {
		if g == customresource.Group {
			s.listDefinitions()
			continue
		}
		if err := s.installGroup(g, byVersion, codecs); err != nil {
			return fmt.Errorf("install API group %q: %w", g, err)
		}
	}
	return custom.ListGroups(s.generic.DiscoveryGroupManager, func(group string) bool { return slices.Contains(groups, group) })
}

func (s *Server) storage(d *resource.Declaration, made map[*resource.Declaration]*registry.Storage) (*registry.Storage, error) {
	if d.AliasOf == nil {
		options, err := s.storageOptions(d.GVK.GroupVersion())
		if err != nil {
			return nil, fmt.Errorf("set up storage of %s: %w", d.GVK, err)
		}
		return registry.New(d, registry.Config{Scheme: s.scheme, Options: options, Env: s.env})
	}
	base := made[d.AliasOf]
	if base == nil {
		return nil, fmt.Errorf("set up %s: what it is an alias of is not served before it", d.GVK)
	}
	return registry.NewAlias(d, base, registry.Config{Scheme: s.scheme, Env: s.env})
}

// storageOptions says how objects of one version are stored: as protobuf, in that version.
func (s *Server) storageOptions(gv schema.GroupVersion) (generic.RESTOptionsGetter, error) {
	config := storagebackend.NewDefaultConfig("/", nil)
	codec, versioner, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  runtime.ContentTypeProtobuf,
		StorageSerializer: s.codecs,
		StorageVersion:    gv,
		MemoryVersion:     schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal},
		Config:            *config,
	})
	if err != nil {
		return nil, err
	}
	config.Codec, config.EncodeVersioner = untyped{codec}, versioner
	return restOptions{config, s.config.Storage, s.config.Encryption}, nil
}

// untyped decodes stored objects without the kind and version that their Go type says anyway: so an item of a list in JSON
// names neither, as with Kubernetes, where what is decoded is an internal type that has none. Encoders add them to what they
// send by itself.
type untyped struct{ runtime.Codec }

func (u untyped) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := u.Codec.Decode(data, defaults, into)
	if err == nil {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, gvk, err
}

type restOptions struct {
	config     *storagebackend.Config
	decorator  generic.StorageDecorator
	encryption *encryption.Encryption
}

func (o restOptions) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	group := gr.Group
	if group == "" {
		group = "core"
	}
	config := o.config.ForResource(gr)
	config.Transformer = o.encryption.TransformerForResource(gr)
	return generic.RESTOptions{
		StorageConfig:           config,
		Decorator:               o.decorator,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          "/" + group + "/" + gr.Resource,
	}, nil
}

// installGroup routes requests to a group's versions.
func (s *Server) installGroup(group string, storages map[schema.GroupVersion]map[string]rest.Storage, codecs serializer.CodecFactory) error {
	root, manager := groupsPrefix, s.generic.AggregatedDiscoveryGroupManager
	if group == "" {
		root, manager = legacyPrefix, s.generic.AggregatedLegacyDiscoveryGroupManager
	}
	var served []metav1.GroupVersionForDiscovery
	for _, gv := range s.scheme.PrioritizedVersionsForGroup(group) {
		if len(storages[gv]) == 0 {
			continue
		}
		types, err := s.typeConverter(gv, storages[gv])
		if err != nil {
			return err
		}
		resources, err := s.installVersion(root, gv, storages, types, codecs)
		if err != nil {
			return err
		}
		manager.AddGroupVersion(group, apidiscoveryv2.APIVersionDiscovery{
			Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: resources,
		})
		groupPriority, versionPriority := aggregation.Priority(gv)
		manager.SetGroupVersionPriority(metav1.GroupVersion(gv), groupPriority, versionPriority)
		served = append(served, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	container := s.generic.Handler.GoRestfulContainer
	if group == "" {
		handler := discovery.NewLegacyRootAPIHandler(discovery.DefaultAddresses{DefaultAddress: s.generic.ExternalAddress}, s.codecs, legacyPrefix)
		wrapped := aggregated.WrapAggregatedDiscoveryToHandler(handler, manager, manager)
		container.Add(wrapped.GenerateWebService(legacyPrefix, metav1.APIVersions{}))
		return nil
	}
	api := metav1.APIGroup{Name: group, Versions: served, PreferredVersion: served[0]}
	s.generic.DiscoveryGroupManager.AddGroup(api)
	container.Add(discovery.NewAPIGroupHandler(s.codecs, api).WebService())
	return nil
}

func (s *Server) installVersion(root string, gv schema.GroupVersion, storages map[schema.GroupVersion]map[string]rest.Storage,
	types utilmanagedfields.TypeConverter, codecs serializer.CodecFactory) ([]apidiscoveryv2.APIResourceDiscovery, error) {
	versions := map[string][]string{}
	for other, resources := range storages {
		if other.Group == gv.Group {
			for r := range resources {
				versions[r] = append(versions[r], other.String())
			}
		}
	}
	version := &genericapi.APIGroupVersion{
		Storage:                     storages[gv],
		Root:                        root,
		GroupVersion:                gv,
		AllServedVersionsByResource: versions,
		OptionsExternalVersion:      &schema.GroupVersion{Version: "v1"},
		Serializer:                  codecs,
		ParameterCodec:              runtime.NewParameterCodec(s.scheme),
		Typer:                       s.scheme,
		Creater:                     deepCreater{s.scheme},
		Convertor:                   convertor{s.scheme},
		ConvertabilityChecker:       s.scheme,
		Defaulter:                   s.scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(s.scheme),
		TypeConverter:               types,
		EquivalentResourceRegistry:  s.generic.EquivalentResourceRegistry,
		Authorizer:                  s.config.Authorizer,
		Admit:                       s.config.Admission,
		MinRequestTimeout:           minWatch,
		MaxRequestBodyBytes:         3 << 20,
	}
	resources, _, err := version.InstallREST(s.generic.Handler.GoRestfulContainer)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", path.Join(root, gv.String()), err)
	}
	return resources, nil
}

// typeConverter returns what tracks the fields of the objects that the storages take. An object that has several
// versions has fields of managers that wrote it in another.
func (s *Server) typeConverter(gv schema.GroupVersion, storages map[string]rest.Storage) (utilmanagedfields.TypeConverter, error) {
	var names []string
	add := func(kind schema.GroupVersionKind) error {
		sample, err := s.scheme.New(kind)
		if err != nil {
			return err
		}
		if name := openapiutil.GetCanonicalTypeName(sample); !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	}
	for _, st := range storages {
		kind, err := genericapi.GetResourceKind(gv, st, s.scheme)
		if err != nil {
			return nil, err
		}
		if err := add(kind); err != nil {
			return nil, err
		}
	}
	for _, d := range s.config.Kinds {
		if d.AliasOf == nil || d.GVK.GroupVersion() != gv && d.AliasOf.GVK.GroupVersion() != gv {
			continue
		}
		if err := errors.Join(add(d.GVK), add(d.AliasOf.GVK)); err != nil {
			return nil, err
		}
	}
	return s.docs.TypeConverter(names), nil
}
