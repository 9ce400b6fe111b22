package pods

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// What was done for an owner is settled when both informers show it: Pods by the version that they are at, deletions by the Pod.
func TestPending(t *testing.T) {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	sets := cache.NewStore(cache.MetaNamespaceKeyFunc)
	p := NewPending(&Index{indexer, corelisters.NewPodLister(indexer)}, sets)
	owner := func(uid types.UID, version int) *corev1.ReplicationController {
		return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rc", UID: uid, ResourceVersion: strconv.Itoa(version)}}
	}
	pod := func(version int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p1", ResourceVersion: strconv.Itoa(version)}}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := cache.ObjectName{Namespace: "ns", Name: "rc"}
	expect := func(what string, settled, awaits bool) {
		t.Helper()
		if a := p.AwaitsPods(name); a != awaits {
			t.Errorf("%s: awaits Pods: %v", what, a)
		}
		if s := p.Settled(name); s != settled {
			t.Errorf("%s: settled: %v", what, s)
		}
	}
	expect("nothing was done", true, false)

	p.created(owner("u1", 1), pod(5))
	expect("a Pod was made", false, true)
	must(indexer.Add(pod(5)))
	expect("it is shown", true, true)
	expect("all was settled", true, false)

	p.Wrote(owner("u1", 7))
	expect("the owner was written", false, false)
	must(indexer.Add(pod(8)))
	expect("the other informer is ahead", false, false)
	must(sets.Add(owner("u1", 7)))
	expect("it is shown", true, false)

	p.deleted(owner("u1", 7), pod(8))
	expect("a Pod was deleted", false, true)
	gone := pod(9)
	gone.DeletionTimestamp = &metav1.Time{}
	must(indexer.Update(gone))
	expect("it is shown ending", true, true)

	p.Wrote(owner("u1", 20))
	p.Forget(owner("u0", 1))
	expect("one before it was forgotten", false, false)
	p.Forget(cache.DeletedFinalStateUnknown{Key: "ns/rc", Obj: owner("u1", 20)})
	expect("it was forgotten", true, false)

	p.Wrote(owner("u1", 99))
	p.Wrote(owner("u2", 30))
	must(sets.Add(owner("u2", 30)))
	expect("another one has the name", true, false)
}
