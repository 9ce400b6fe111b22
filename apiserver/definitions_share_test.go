package apiserver_test

import (
	"reflect"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
)

// Clients for definitions that share see what those over the network see, although the server has definitions in another form.
func TestDefinitionsAreShared(t *testing.T) {
	s := servertest.Start(t, nil)
	crds := must(extensions.NewForConfig(s.Config("admin")))(t).ApiextensionsV1().CustomResourceDefinitions()
	mine := must(inprocess.NewExtensions(s.Transport.Config(&user.DefaultInfo{Name: "informer"})))(t).ApiextensionsV1().CustomResourceDefinitions()
	a, err := mine.Watch(ctx, fromStart())
	one := eventsOf(t, a, err)
	b, err := crds.Watch(ctx, fromStart())
	network := eventsOf(t, b, err)
	compare := func(kind watch.EventType) *apiextensionsv1.CustomResourceDefinition {
		t.Helper()
		got, want := one(), network()
		if got.Type != kind || !reflect.DeepEqual(got, want) {
			t.Errorf("within the process %+v, the network %+v, want %s", got, want, kind)
		}
		return got.Object.(*apiextensionsv1.CustomResourceDefinition)
	}
	compare(watch.Bookmark)
	size := apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: ptr.To(1.0), Default: &apiextensionsv1.JSON{Raw: []byte("3")}, Description: "How large it is."}
	must(crds.Create(ctx, &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "things.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{Group: "example.com", Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"size": size}}}}}}}, metav1.CreateOptions{}))(t)
	for crd := compare(watch.Added); !established(crd); crd = compare(watch.Modified) {
	}
	if err := crds.Delete(ctx, "things.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for got, want := one(), network(); ; got, want = one(), network() {
		if !reflect.DeepEqual(got, want) {
			t.Errorf("within the process %+v, the network %+v", got, want)
		}
		if want.Type == watch.Deleted {
			return
		}
	}
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
