package garbagecollector

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// What a list after the first does not have any more is gone; so is an object whose name another has now. Other kinds are not concerned.
func TestListThatLacksObjects(t *testing.T) {
	c := &Collector{graph: newGraph()}
	told := 0
	maps := &kind{Collector: c, gvr: corev1.SchemeGroupVersion.WithResource("configmaps"), changed: func() { told++ }, listed: make(chan struct{})}
	secrets := &kind{Collector: c, gvr: corev1.SchemeGroupVersion.WithResource("secrets"), listed: make(chan struct{})}
	object := func(name, uid string) any {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)}}
	}
	replace := func(k *kind, list ...any) {
		t.Helper()
		if err := k.Replace(list, "1"); err != nil {
			t.Fatal(err)
		}
		if !cache.IsDone(k) {
			t.Fatal("a list that was taken in is not done")
		}
	}
	want := func(uids ...types.UID) {
		t.Helper()
		for _, uid := range uids {
			if c.graph.nodes[uid] == nil {
				t.Errorf("%s is not in the graph", uid)
			}
		}
		if have := len(c.graph.nodes); have != len(uids) {
			t.Errorf("the graph has %d objects, want %d", have, len(uids))
		}
	}
	if cache.IsDone(maps) {
		t.Error("done before there was a list")
	}
	replace(secrets, object("a", "secret"))
	replace(maps, object("a", "1"), object("b", "2"), object("c", "3"))
	want("secret", "1", "2", "3")
	replace(maps, object("a", "1"), object("b", "4"))
	want("secret", "1", "4")
	if err := maps.Add(object("d", "5")); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(object("a", "1")); err != nil {
		t.Fatal(err)
	}
	want("secret", "4", "5")
	replace(secrets)
	want("4", "5")
	if told != 4 {
		t.Errorf("told of %d changes, want 4", told)
	}
}
