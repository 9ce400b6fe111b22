package apiserver

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// convertor is the scheme, with the conversion between two objects of one type: the internal type of a kind is that of a served
// version, and admission converts between the two what webhooks and policies see.
type convertor struct{ *runtime.Scheme }

// Convert implements runtime.ObjectConvertor. Between objects of one type it copies the object but not what it refers to, as
// conversions do; neither may be changed in place afterwards.
func (c convertor) Convert(in, out, context any) error {
	from, to := reflect.ValueOf(in), reflect.ValueOf(out)
	_, free := in.(runtime.Unstructured)
	if free || from.Type() != to.Type() || from.Kind() != reflect.Pointer {
		return c.Scheme.Convert(in, out, context)
	}
	to.Elem().Set(from.Elem())
	return nil
}

// sameObjects names the kind that an alias stands for: a webhook or policy that is about either is about both.
func (s *Server) sameObjects(gr schema.GroupResource) string {
	for _, d := range s.config.Kinds {
		if d.Resource() == gr && d.AliasOf != nil {
			gr = d.AliasOf.Resource()
		}
	}
	return "/" + gr.Group + "/" + gr.Resource
}
