package attachdetach

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A volume is one node's from when it asks until its attachment is seen, or until it no longer wants what it did not get.
func TestReservation(t *testing.T) {
	indexer := func(by string) cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{by: func(any) ([]string, error) { return nil, nil }})
	}
	c := &controller{attachments: indexer(byVolume), volumes: corelisters.NewPersistentVolumeLister(indexer("none")), making: map[string]reservation{}}
	expect := func(what, node string, want ...string) {
		t.Helper()
		got, err := c.reserve("pv", node)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: node %s is told of %q, %v; want %q", what, node, got, err, want)
		}
	}
	keeps := map[corev1.UniqueVolumeName]*wanted{"v": {volume: &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}}}}}
	expect("free", "n1")
	expect("reserved", "n2", "n1")
	expect("its own", "n1")
	c.cancel("n2", nil)
	c.cancel("n1", keeps)
	expect("another's and no cancellation", "n2", "n1")
	c.cancel("n1", nil)
	expect("cancelled", "n2")
	c.asked("pv", "n1")
	c.asked("pv", "n2")
	c.cancel("n2", nil)
	expect("it is being attached", "n1", "n2")
	expect("asked again", "n2")
	c.cancel("n2", nil)
	expect("it is being attached still", "n1", "n2")
	c.seen("pv", "n1")
	expect("another was seen", "n1", "n2")
	c.seen("pv", "n2")
	expect("seen, and not there any more", "n1")
}
