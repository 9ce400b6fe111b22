// Package kindmapper finds the resource of a kind among those that a server serves, which may change at any time.
package kindmapper

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// Mapper reads what is served when it is first asked, and again when it is asked for what it does not know: the kind may be new.
type Mapper struct{ meta.ResettableRESTMapper }

// New reads nothing yet.
func New(d discovery.DiscoveryInterface) Mapper {
	return Mapper{restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}
}

// RESTMapping implements meta.RESTMapper.
func (m Mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return again(m, func() (*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMapping(kind, versions...) })
}

// RESTMappings implements meta.RESTMapper.
func (m Mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return again(m, func() ([]*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMappings(kind, versions...) })
}

// KindFor implements meta.RESTMapper.
func (m Mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return again(m, func() (schema.GroupVersionKind, error) { return m.ResettableRESTMapper.KindFor(resource) })
}

// KindsFor implements meta.RESTMapper.
func (m Mapper) KindsFor(resource schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return again(m, func() ([]schema.GroupVersionKind, error) { return m.ResettableRESTMapper.KindsFor(resource) })
}

func again[T any](m Mapper, find func() (T, error)) (T, error) {
	found, err := find()
	if meta.IsNoMatchError(err) {
		m.Reset()
		found, err = find()
	}
	return found, err
}
