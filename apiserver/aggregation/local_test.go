package aggregation_test

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver/servertest"
)

const managed = "kube-aggregator.kubernetes.io/automanaged"

// TestOwnGroups: there is an APIService of each group version that the server has, from when it is ready.
func TestOwnGroups(t *testing.T) {
	s := servertest.Start(t, nil)
	list, err := apiServices(t, s).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]apiregistrationv1.APIService{}
	for _, s := range list.Items {
		have[s.Name] = s
		if c := s.Status.Conditions; s.Spec.Service != nil || s.Labels[managed] != "onstart" || len(c) != 1 || c[0].Reason != "Local" ||
			c[0].Status != apiregistrationv1.ConditionTrue || c[0].Message != "Local APIServices are always available" {
			t.Errorf("%s is %+v", s.Name, s)
		}
	}
	want := map[string]bool{"v1.apiextensions.k8s.io": true}
	for _, d := range api.All() {
		if gv := d.GVK.GroupVersion(); gv.Group != "apiregistration.k8s.io" {
			want[gv.Version+"."+gv.Group] = true
		}
	}
	for name := range want {
		if _, ok := have[name]; !ok {
			t.Errorf("there is no APIService %s", name)
		}
	}
	if len(have) != len(want) {
		t.Errorf("there are %d APIServices, want %d", len(have), len(want))
	}
	for name, want := range map[string][2]int32{"v1.": {18000, 1}, "v1.apps": {17800, 15}, "v1.batch": {17400, 15}} {
		if s := have[name].Spec; s.GroupPriorityMinimum != want[0] || s.VersionPriority != want[1] {
			t.Errorf("priorities of %q are %d and %d, want %v", name, s.GroupPriorityMinimum, s.VersionPriority, want)
		}
	}
}

// TestOwnGroupsMended: what an administrator does to an APIService of the server's own groups lasts until the next start; what was left
// over from an older server goes then, and what is somebody else's stays.
func TestOwnGroupsMended(t *testing.T) {
	s := servertest.Start(t, nil)
	c := apiServices(t, s)
	if _, err := c.Patch(t.Context(), "v1.apps", types.MergePatchType, []byte(`{"spec":{"versionPriority":16}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "v1.batch", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := apiregistrationv1.APIServiceSpec{Group: "gone.example.com", Version: "v1", GroupPriorityMinimum: 1, VersionPriority: 1}
	for version, label := range map[string]string{"v1": "onstart", "v2": "true", "v3": ""} {
		spec.Version = version
		left := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: version + ".gone.example.com", Labels: map[string]string{managed: label}}, Spec: spec}
		if _, err := c.Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(s *apiregistrationv1.APIService) bool { return s == nil }
	await(t, c, "v2.gone.example.com", gone)
	if _, err := c.Get(t.Context(), "v1.gone.example.com", metav1.GetOptions{}); err != nil {
		t.Errorf("what is to be looked at on start alone is gone: %v", err)
	}
	s.Stop()
	s = servertest.New(t, s.FS, nil)
	<-s.Ready()
	c = apiServices(t, s)
	await(t, c, "v1.gone.example.com", gone)
	await(t, c, "v1.apps", func(s *apiregistrationv1.APIService) bool { return s != nil && s.Spec.VersionPriority == 15 })
	await(t, c, "v1.batch", func(s *apiregistrationv1.APIService) bool { return s != nil })
	if _, err := c.Get(t.Context(), "v3.gone.example.com", metav1.GetOptions{}); err != nil {
		t.Errorf("what is somebody else's is gone: %v", err)
	}
}

// TestCustomGroups: APIServices of custom resources come, stay right and go with the definitions.
func TestCustomGroups(t *testing.T) {
	s := servertest.Start(t, nil)
	definitions, err := extensions.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}}},
		},
	}
	if _, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := apiServices(t, s)
	right := func(s *apiregistrationv1.APIService) bool {
		return s != nil && s.Labels[managed] == "true" && s.Spec.GroupPriorityMinimum == 1000 && s.Spec.VersionPriority == 100 && reason("Local")(s)
	}
	await(t, c, "v1.example.com", right)
	if _, err := c.Patch(t.Context(), "v1.example.com", types.MergePatchType, []byte(`{"spec":{"versionPriority":7}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, "v1.example.com", right)
	old := await(t, c, "v1.example.com", right).UID
	if err := c.Delete(t.Context(), "v1.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, "v1.example.com", func(s *apiregistrationv1.APIService) bool { return right(s) && s.UID != old })
	if err := definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, "v1.example.com", func(s *apiregistrationv1.APIService) bool { return s == nil })
}
