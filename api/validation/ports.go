package validation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PortNumber checks that port is between 1 and 65535.
func PortNumber(port int32, path *field.Path) field.ErrorList {
	return Messages(validation.IsValidPortNum(int(port)), port, path)
}

// PortNumberOrName checks a port that is given by number or by the name of a container's port.
func PortNumberOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	switch port.Type {
	case intstr.Int:
		return Messages(validation.IsValidPortNum(port.IntValue()), port.IntValue(), path)
	case intstr.String:
		return Messages(validation.IsValidPortName(port.StrVal), port.StrVal, path)
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unknown type: %v", port.Type))}
}
