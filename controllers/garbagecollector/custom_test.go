package garbagecollector_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/servertest"
)

// things is the client of a custom kind in one version.
type things struct {
	t           *testing.T
	definitions extensions.Interface
	client      dynamic.Interface
	gvr         schema.GroupVersionResource
}

// define makes the kind Thing of example.com/v1beta1 and waits until it is served.
func define(t *testing.T, server *servertest.Server) things {
	t.Helper()
	definitions, err := extensions.NewForConfig(server.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(server.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	any := apiextensionsv1.CustomResourceDefinitionVersion{
		Name: "v1beta1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}},
	}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Versions: []apiextensionsv1.CustomResourceDefinitionVersion{any},
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"},
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for e := range w.ResultChan() {
		for _, c := range e.Object.(*apiextensionsv1.CustomResourceDefinition).Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return things{t, definitions, client, schema.GroupVersionResource{Group: "example.com", Version: "v1beta1", Resource: "things"}}
			}
		}
	}
	t.Fatal("the definition is not established in time")
	return things{}
}

func (k things) put(name string, owner *corev1.ConfigMap) *unstructured.Unstructured {
	k.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": k.gvr.GroupVersion().String(), "kind": "Thing"}}
	u.SetName(name)
	if owner != nil {
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}})
	}
	made, err := k.client.Resource(k.gvr).Namespace(ns).Create(k.t.Context(), u, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	return made
}

// awaitServed asks until the version is served: nothing tells when.
func (k things) awaitServed() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := k.client.Resource(k.gvr).Namespace(ns).List(ctx, metav1.ListOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsNotFound(err) {
			k.t.Fatal(err)
		}
	}
}

func (k things) remove(name string) {
	k.t.Helper()
	if err := k.client.Resource(k.gvr).Namespace(ns).Delete(k.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

// awaitGone waits until a Thing has been deleted, watching from before what deletes it.
func (k things) awaitGone(name string, from *unstructured.Unstructured) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	w, err := k.client.Resource(k.gvr).Namespace(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: from.GetResourceVersion(), FieldSelector: "metadata.name=" + name})
	if err != nil {
		k.t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Deleted {
			return
		}
	}
	k.t.Fatalf("Thing %s is not deleted in time", name)
}

// ownedBy makes a config map that a Thing owns.
func ownedBy(t *testing.T, c kubernetes.Interface, name string, owner *unstructured.Unstructured) {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{
		APIVersion: owner.GetAPIVersion(), Kind: owner.GetKind(), Name: owner.GetName(), UID: owner.GetUID()}}}}
	if _, err := c.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// awaitSeen waits until the collector has taken in all Things and config maps that there are: of both kinds, what was made
// after them is something that it alone ends.
func (k things) awaitSeen(c kubernetes.Interface) {
	k.t.Helper()
	thing := k.put("probe", nil)
	if err := k.client.Resource(k.gvr).Namespace(ns).Delete(k.t.Context(), "probe", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
		k.t.Fatal(err)
	}
	k.awaitGone("probe", thing)
	put(k.t, c, "probed", false, put(k.t, c, "probe", false))
	remove(k.t, c, "probe", metav1.DeletePropagationBackground)
	await(k.t, c, "probed", "deleted with its owner", isGone)
}

func isGone(cm *corev1.ConfigMap) bool { return cm == nil }

// nameEarly makes a config map whose owner is of a kind that is not there yet, and waits until that kind has been looked for.
func nameEarly(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	early := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1beta1", "kind": "Thing"}}
	early.SetName("early")
	early.SetUID("11111111-1111-1111-1111-111111111111")
	ownedBy(t, c, "early", early)
	put(t, c, "probed", false, put(t, c, "probe", false))
	remove(t, c, "probe", metav1.DeletePropagationBackground)
	await(t, c, "probed", "deleted with its owner", isGone)
}

// ownAndAreOwned checks that the kind, which has come to be, owns and is owned, after nameEarly.
func (k things) ownAndAreOwned(c kubernetes.Interface) {
	k.t.Helper()
	await(k.t, c, "early", "deleted once it is known that its owner is not there", isGone)
	owner := k.put("owner", nil)
	ownedBy(k.t, c, "owned", owner)
	k.remove("owner")
	await(k.t, c, "owned", "deleted with its owner", isGone)
	cm := put(k.t, c, "map", false)
	thing := k.put("thing", cm)
	remove(k.t, c, "map", metav1.DeletePropagationBackground)
	k.awaitGone("thing", thing)
}

// Custom resources own and are owned like all others: those of a kind that is defined while the collector runs, after a change of
// its versions, and after the collector was started anew.
func TestCustomResources(t *testing.T) {
	server := servertest.Start(t, nil)
	c, end := startOn(t, server)
	nameEarly(t, c)
	k := define(t, server)
	k.ownAndAreOwned(c)

	// From now on there is v1 alone.
	add := `[{"op":"copy","from":"/spec/versions/0","path":"/spec/versions/0"},{"op":"replace","path":"/spec/versions/0/name","value":"v1"},{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/served","value":false}]`
	if _, err := k.definitions.ApiextensionsV1().CustomResourceDefinitions().Patch(t.Context(), "things.example.com", types.JSONPatchType, []byte(add), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	k.gvr.Version = "v1"
	k.awaitServed()
	cm := put(t, c, "map", false)
	thing := k.put("thing", cm)
	remove(t, c, "map", metav1.DeletePropagationBackground)
	k.awaitGone("thing", thing)
	ownedBy(t, c, "stays", k.put("stays", nil))

	end()
	again, _ := startOn(t, server)
	k.remove("stays")
	await(t, again, "stays", "deleted by another collector", isGone)

	// With the definition go the objects, and what they own.
	ownedBy(t, again, "last", k.put("last", nil))
	k.awaitSeen(again)
	if err := k.definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), "things.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, again, "last", "deleted with its owner's kind", isGone)
}
