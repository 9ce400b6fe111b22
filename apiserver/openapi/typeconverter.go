package openapi

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/builder3"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// TypeConverter returns what tells the fields of objects of the named types apart, for the keeping of managed fields.
// Its schemas are built at its first use.
func (d *Documents) TypeConverter(names []string) managedfields.TypeConverter {
	return lazyConverter(sync.OnceValues(func() (managedfields.TypeConverter, error) {
		config, err := d.v3Config()
		if err != nil {
			return nil, err
		}
		schemas, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
		if err != nil {
			return nil, fmt.Errorf("build the schemas of managed fields: %w", err)
		}
		return managedfields.NewTypeConverter(schemas, false)
	}))
}

type lazyConverter func() (managedfields.TypeConverter, error)

func (l lazyConverter) ObjectToTyped(obj runtime.Object, o ...typed.ValidationOptions) (*typed.TypedValue, error) {
	c, err := l()
	if err != nil {
		return nil, err
	}
	return c.ObjectToTyped(obj, o...)
}

func (l lazyConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	c, err := l()
	if err != nil {
		return nil, err
	}
	return c.TypedToObject(v)
}
