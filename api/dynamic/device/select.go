package device

import (
	"errors"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"
)

// Selectors checks expressions that are new. Those that are stored were checked when they came.
func Selectors(list []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	return List(list, resourcev1.DeviceSelectorsMaxSize, path, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		return expression(s.CEL.Expression, at.Child("cel", "expression"))
	})
}

// expression compiles. The compiler, which takes some megabytes, is made by the library at the first expression.
func expression(text string, path *field.Path) field.ErrorList {
	if len(text) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	fresh := environment.NewExpressions
	compiled := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(text, cel.Options{EnvType: &fresh})
	if compiled.Error != nil {
		return field.ErrorList{failure(path, text, compiled.Error)}
	}
	if compiled.MaxCost > resourcev1.CELSelectorExpressionMaxCost {
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return nil
}

func failure(path *field.Path, text string, err error) *field.Error {
	var e *apicel.Error
	if errors.As(err, &e) {
		switch e.Type {
		case apicel.ErrorTypeRequired:
			return field.Required(path, e.Detail)
		case apicel.ErrorTypeInvalid:
			return field.Invalid(path, text, e.Detail)
		case apicel.ErrorTypeInternal:
			return field.InternalError(path, e)
		}
	}
	return field.InternalError(path, fmt.Errorf("unsupported error type: %w", err))
}
