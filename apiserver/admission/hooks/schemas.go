package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/client-go/openapi"
	"k8s.io/kube-openapi/pkg/spec3"
)

// schemas gives mutating policies what they need to merge into an object of some kind. It looks what the server publishes up with each
// mutation, some 0.1 ms within the process, and reads a version's schema when it has changed. k8s.io/apiserver's own looks every 5 s
// instead, and knows a new kind that much later.
type schemas struct {
	published openapi.Client

	mu   sync.Mutex
	read map[schema.GroupVersion]converter
}

// converter is of the schema that was published at a place, which is another one after each change.
type converter struct {
	place string
	types managedfields.TypeConverter
}

var _ patch.TypeConverterManager = &schemas{}

func newSchemas(published openapi.Client) *schemas {
	return &schemas{published: published, read: map[schema.GroupVersion]converter{}}
}

// Run implements patch.TypeConverterManager; nothing runs.
func (s *schemas) Run(context.Context) {}

// GetTypeConverter implements patch.TypeConverterManager. Nil says that the kind has no schema.
func (s *schemas) GetTypeConverter(gvk schema.GroupVersionKind) managedfields.TypeConverter {
	types, err := s.converter(gvk.GroupVersion())
	if err != nil {
		utilruntime.HandleError(fmt.Errorf("find schema of %s: %w", gvk, err))
		return nil
	}
	return types
}

func (s *schemas) converter(gv schema.GroupVersion) (managedfields.TypeConverter, error) {
	places, err := s.published.Paths()
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	path := "apis/" + gv.String()
	if gv.Group == "" {
		path = "api/" + gv.Version
	}
	place, ok := places[path]
	if !ok {
		return nil, fmt.Errorf("none is published at %s", path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.read[gv]; known.place == place.ServerRelativeURL() {
		return known.types, nil
	}
	body, err := place.Schema(runtime.ContentTypeJSON)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var document spec3.OpenAPI
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	types, err := managedfields.NewTypeConverter(document.Components.Schemas, false)
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	s.read[gv] = converter{place.ServerRelativeURL(), types}
	return types, nil
}
