package customresource_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/servertest"
)

// converted defines a kind whose version v1 has .full and whose v2 has .first and .last, converted by a webhook.
func converted(webhook *apiextensionsv1.WebhookClientConfig) *apiextensionsv1.CustomResourceDefinition {
	version := func(name string, storage bool) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Served: true, Storage: storage, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}}
	}
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: "people.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.ClusterScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "people", Kind: "Person"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", true), version("v2", false)},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
				ClientConfig: webhook, ConversionReviewVersions: []string{"v1"}}},
		},
	}
}

// convert is the webhook.
func convert(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		var u unstructured.Unstructured
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if review.Request.DesiredAPIVersion == "example.com/v2" {
			first, last, _ := strings.Cut(field(&u, "full").(string), " ")
			u.Object["first"], u.Object["last"] = first, last
			delete(u.Object, "full")
		} else {
			u.Object["full"] = field(&u, "first").(string) + " " + field(&u, "last").(string)
			delete(u.Object, "first")
			delete(u.Object, "last")
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: &u})
	}
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // The client that is gone is told nothing.
}

func (w *world) person(version, name string, fields map[string]any) error {
	w.t.Helper()
	u := &unstructured.Unstructured{Object: fields}
	u.SetAPIVersion("example.com/" + version)
	u.SetKind("Person")
	u.SetName(name)
	_, err := w.objects.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "people"}).Create(limit(w.t), u, metav1.CreateOptions{})
	return err
}

func (w *world) defineObject(crd *apiextensionsv1.CustomResourceDefinition) {
	w.t.Helper()
	text, err := json.Marshal(crd)
	if err != nil {
		w.t.Fatal(err)
	}
	w.define(string(text))
}

func TestConversionByWebhook(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(convert))
	t.Cleanup(hook.Close)
	w := newWorld(t, servertest.Start(t, nil))
	w.defineObject(converted(&apiextensionsv1.WebhookClientConfig{
		URL: &hook.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})}))
	if err := w.person("v1", "ada", map[string]any{"full": "Ada Lovelace"}); err != nil {
		t.Fatal(err)
	}
	if err := w.person("v2", "alan", map[string]any{"first": "Alan", "last": "Turing"}); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{"v1": "Ada Lovelace  , Alan Turing  ", "v2": " Ada Lovelace,  Alan Turing"} {
		list, err := w.objects.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "people"}).List(limit(t), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range list.Items {
			text := func(name string) string { s, _ := field(&list.Items[i], name).(string); return s }
			got = append(got, text("full")+" "+text("first")+" "+text("last"))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("in %s the people are %q, want %q", version, strings.Join(got, ", "), want)
		}
	}
}

// A webhook behind a Service is looked for at the Service's cluster IP, and errors name the Service.
func TestConversionByService(t *testing.T) {
	server := servertest.Start(t, nil)
	w := newWorld(t, server)
	w.defineObject(converted(&apiextensionsv1.WebhookClientConfig{Service: &apiextensionsv1.ServiceReference{Namespace: "default", Name: "converter"}}))
	refused(t, w.person("v2", "x", map[string]any{"first": "X", "last": "Y"}), `services "converter" not found`)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "converter"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8443}}}}
	if _, err := server.Client(t).CoreV1().Services("default").Create(limit(t), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	refused(t, w.person("v2", "x", map[string]any{"first": "X", "last": "Y"}), `no service port 443 found for service "converter"`)
}
