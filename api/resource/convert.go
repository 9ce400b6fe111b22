package resource

import (
	"fmt"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddConversion has scheme convert objects of Go type F to T: half of what Declaration.Convert of an alias registers. The result
// may share with in what convert does not change; neither is changed in place afterwards.
func AddConversion[F, T any](scheme *runtime.Scheme, convert func(in *F, out *T) error) error {
	err := scheme.AddConversionFunc((*F)(nil), (*T)(nil), func(from, to any, _ conversion.Scope) error {
		return convert(from.(*F), to.(*T))
	})
	if err != nil {
		return fmt.Errorf("register conversion of %T to %T: %w", new(F), new(T), err)
	}
	return nil
}

// ConvertEach converts the items of a list. No list stays no list.
func ConvertEach[F, T any](in []F, convert func(in *F, out *T) error) ([]T, error) {
	if in == nil {
		return nil, nil
	}
	out := make([]T, len(in))
	for i := range in {
		if err := convert(&in[i], &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
