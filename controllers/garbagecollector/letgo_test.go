package garbagecollector

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
)

// An object that is let go between the look at it and its deletion stays, though its owner has gone by then. What else changed on it keeps
// nothing.
func TestLetGoMeanwhile(t *testing.T) {
	config := servertest.Start(t, nil).Transport.Config(&user.DefaultInfo{Name: "gc", Groups: []string{user.SystemPrivilegedGroup}})
	client, err := inprocess.NewClientset(config)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := inprocess.NewMetadata(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{metadata: objects}
	maps := client.CoreV1().ConfigMaps("default")
	for _, test := range []struct {
		name, patch string
		stays       bool
	}{
		{"let-go", `{"metadata":{"ownerReferences":[]}}`, true},
		{"changed", `{"metadata":{"labels":{"a":"b"}}}`, false},
		{"as-it-was", `{}`, false},
	} {
		made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: test.name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "gone"}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		id := identity{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "default", test.name, made.UID}
		seen, err := c.live(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Patch(t.Context(), test.name, types.MergePatchType, []byte(test.patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.delete(t.Context(), id, seen, metav1.DeletePropagationBackground); (err != nil) != test.stays {
			t.Errorf("%s: it is to be considered again: %v", test.name, err)
		}
		if _, err := maps.Get(t.Context(), test.name, metav1.GetOptions{}); apierrors.IsNotFound(err) == test.stays {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
