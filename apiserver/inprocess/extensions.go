package inprocess

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	extensionsscheme "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/scheme"
	typedv1 "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// extensions is a clientset whose watches of definitions of custom resources share the server's objects.
type extensions struct {
	extensionsclient.Interface
	v1 typedv1.ApiextensionsV1Interface
}

// NewExtensions makes a clientset for definitions of custom resources of a Transport's config, as NewClientset does for other kinds. The server
// has definitions in a form of its own: an event is converted, for each watch, but neither encoded nor decoded, which for a large
// definition is a megabyte each.
func NewExtensions(config *rest.Config) (extensionsclient.Interface, error) {
	all, err := extensionsclient.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	config, over, err := sharing(config)
	if err != nil {
		return nil, err
	}
	config = versioned(config, apiextensionsv1.SchemeGroupVersion)
	config.NegotiatedSerializer = extensionsscheme.Codecs.WithoutConversion()
	v1, err := restClient(config, definitionOf, over)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s that shares the server's objects: %w", apiextensionsv1.SchemeGroupVersion, err)
	}
	return extensions{all, typedv1.New(v1)}, nil
}

// ApiextensionsV1 implements extensionsclient.Interface.
func (e extensions) ApiextensionsV1() typedv1.ApiextensionsV1Interface { return e.v1 }

// definitionOf is the view of a client for definitions. What it returns shares its strings with the server's object.
func definitionOf(obj runtime.Object) (runtime.Object, error) {
	crd, ok := obj.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return obj, nil // an error's Status
	}
	out := &apiextensionsv1.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(crd, out, nil); err != nil {
		return nil, fmt.Errorf("convert definition %s: %w", crd.Name, err)
	}
	return out, nil
}
