// Package optionfile reads files that options name: objects of apiserver.config.k8s.io, in any version that k8s.io/apiserver knows. It
// also tells when such a file has changed.
package optionfile

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
)

// Decode reads an object of the group, with the defaults of its version. Unknown and duplicate fields are errors, and so is an object of
// another kind. The scheme is made for the call: most servers never need it.
func Decode[T any](data []byte) (*T, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoded, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	object, ok := decoded.(any).(*T)
	if !ok {
		return nil, fmt.Errorf("holds a %T, not a %T", decoded, object)
	}
	return object, nil
}
