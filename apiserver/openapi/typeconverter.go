package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// TypeConverter returns what tells the fields of objects of the named types apart, for the keeping of managed fields.
// Its schemas are built at its first use.
func (d *Documents) TypeConverter(names []string) managedfields.TypeConverter {
	return &converter{checking: sync.OnceValues(func() (c managedfields.TypeConverter, err error) {
		err = d.withDefinitions(func(config *common.OpenAPIV3Config) error {
			schemas, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
			if err == nil {
				c, err = managedfields.NewTypeConverter(schemas, false)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("build the schemas of managed fields: %w", err)
		}
		return c, nil
	})}
}

// converter leaves out a check where it cannot fail. The library's converter walks the whole object to see that it is as its
// schema says, twice for an update, which was 7 % of a Pod's creation and 6 % of a patch. The schemas here are those of the
// Go types, so that an object of such a type is as its schema says.
type converter struct {
	checking func() (managedfields.TypeConverter, error)
	// known has what each Go type's objects are in the schema: reflect.Type to *known.
	known sync.Map
}

// nothing stands for an object whose fields nobody keeps: one that is never stored and is answered with a Status. Telling its fields apart
// would be 5 % of what it costs to bind a Pod.
var nothing = typed.AsTypedUnvalidated(value.NewValueInterface(map[string]any{}), typed.DeducedParseableType.Schema, typed.DeducedParseableType.TypeRef)

// known is how objects of one Go type, in one version, are told apart.
type known struct {
	kind, apiVersion string
	schema           *schema.Schema
	ref              schema.TypeRef
}

// ObjectToTyped implements managedfields.TypeConverter. Without AllowDuplicates the object is checked, as whether entries
// of a list have the same key is not a matter of types.
func (c *converter) ObjectToTyped(obj runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if len(options) != 1 || options[0] != typed.AllowDuplicates {
		return c.check(obj, options...)
	}
	switch obj.(type) {
	case *corev1.Binding, *policyv1.Eviction:
		return nothing, nil
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	if k, ok := c.known.Load(reflect.TypeOf(obj)); ok {
		k := k.(*known)
		if k.kind == kind && k.apiVersion == apiVersion {
			v, err := value.NewValueReflect(obj)
			if err != nil {
				return nil, fmt.Errorf("read the fields of a %T: %w", obj, err)
			}
			return typed.AsTypedUnvalidated(v, k.schema, k.ref), nil
		}
	}
	out, err := c.check(obj, options...)
	if err == nil && conforms(reflect.TypeOf(obj), nil) {
		c.known.Store(reflect.TypeOf(obj), &known{kind: kind, apiVersion: apiVersion, schema: out.Schema(), ref: out.TypeRef()})
	}
	return out, err
}

func (c *converter) check(obj runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	checking, err := c.checking()
	if err != nil {
		return nil, err
	}
	return checking.ObjectToTyped(obj, options...)
}

// TypedToObject implements managedfields.TypeConverter.
func (c *converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	checking, err := c.checking()
	if err != nil {
		return nil, err
	}
	return checking.TypedToObject(v)
}

// conforms says whether whatever a value of type t holds is as the schema of t says. It is not where a part may hold JSON of
// any form, as RawExtension does. Types that t is a part of are in within.
func conforms(t reflect.Type, within []reflect.Type) bool {
	if slices.Contains(within, t) {
		return true
	}
	within = append(within, t)
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return conforms(t.Elem(), within)
	case reflect.Map:
		return t.Key().Kind() == reflect.String && conforms(t.Elem(), within)
	case reflect.Struct:
		switch t {
		case reflect.TypeFor[apiresource.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](),
			reflect.TypeFor[metav1.Duration](), reflect.TypeFor[intstr.IntOrString](),
			reflect.TypeFor[metav1.FieldsV1](): // which is never there: managed fields are taken off before
			return true
		}
		if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) {
			return false
		}
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && f.Tag.Get("json") != "-" && !conforms(f.Type, within) {
				return false
			}
		}
		return true
	case reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return false
	default:
		return true
	}
}
