package statefulset_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/controltest"
)

func withClaims(s *appsv1.StatefulSetSpec) {
	s.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Finalizers: []string{"example.com/in-use"}},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}}
}

func startWithClaims(t *testing.T, change func(*appsv1.StatefulSetSpec)) *controltest.World {
	t.Helper()
	w := start(t, func(s *appsv1.StatefulSetSpec) {
		withClaims(s)
		change(s)
	})
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	return w
}

func claimOf(t *testing.T, w *controltest.World, name string) *corev1.PersistentVolumeClaim {
	t.Helper()
	claim, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

// awaitOwner waits until the claim has these owners, each told by kind and name.
func awaitOwner(t *testing.T, w *controltest.World, claim, want string) {
	t.Helper()
	w.Await(t, "owners of "+claim+" to be "+want, func() bool {
		owners := []string{}
		for _, r := range claimOf(t, w, claim).OwnerReferences {
			owners = append(owners, r.Kind+"/"+r.Name)
		}
		return fmt.Sprint(owners) == want
	})
}

// letGo takes the finalizers off the claim, as whoever uses it would.
func letGo(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestClaimsFollowPolicy: a change of the policy holds for claims that are there, of Pods that run.
func TestClaimsFollowPolicy(t *testing.T) {
	w := startWithClaims(t, func(*appsv1.StatefulSetSpec) {})
	w.Kubelet(t, "app=db")
	await(t, w, "db-0=hello db-1=hello db-2=hello")
	awaitOwner(t, w, "data-db-2", "[]")
	patch(t, w, `{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"}}}`)
	awaitOwner(t, w, "data-db-2", "[StatefulSet/db]")
	patch(t, w, `{"spec":{"replicas":2}}`)
	awaitOwner(t, w, "data-db-2", "[Pod/db-2]")
	awaitOwner(t, w, "data-db-1", "[StatefulSet/db]")
	await(t, w, "db-0=hello db-1=hello")

	// The claim of the Pod that went is still to go: its ordinal waits for that, and gets a new one.
	old := claimOf(t, w, "data-db-2").UID
	patch(t, w, `{"spec":{"replicas":3,"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}`)
	awaitOwner(t, w, "data-db-1", "[]")
	if got := tell(t, w); got != "db-0=hello db-1=hello" {
		t.Fatalf("with the old claim: %s", got)
	}
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), "data-db-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	letGo(t, w, "data-db-2")
	await(t, w, "db-0=hello db-1=hello db-2=hello")
	if claimOf(t, w, "data-db-2").UID == old {
		t.Error("the claim is the old one")
	}
}

// TestForeignController: the policy does not count for a claim that another controller has.
func TestForeignController(t *testing.T) {
	w := startWithClaims(t, func(*appsv1.StatefulSetSpec) {})
	w.Kubelet(t, "app=db")
	await(t, w, "db-0=hello db-1=hello db-2=hello")
	_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), "data-db-0", types.MergePatchType,
		[]byte(`{"metadata":{"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Backup","name":"b","uid":"1","controller":true}]}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch(t, w, `{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete"}}}`)
	awaitOwner(t, w, "data-db-1", "[StatefulSet/db]")
	awaitOwner(t, w, "data-db-0", "[Backup/b]")
}

// TestMissingClaim: a Pod that waits for a claim that was deleted gets a new one; no Pod is made for one that is going.
func TestMissingClaim(t *testing.T) {
	w := startWithClaims(t, func(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement })
	w.Await(t, "three Pods", func() bool { return len(w.Pods(t, "app=db")) == 3 })
	old := claimOf(t, w, "data-db-1").UID
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), "data-db-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the claim to be seen going", func() bool {
		claim, err := w.Informers.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(ns).Get("data-db-1")
		return err == nil && claim.DeletionTimestamp != nil
	})
	w.DeletePod(t, "db-1")
	w.Event(t, "db", "FailedCreate", "Create Pod db-1 in StatefulSet db failed error: pvc data-db-1 is being deleted")
	if n := len(w.Pods(t, "app=db")); n != 2 {
		t.Errorf("%d Pods with a claim that is going", n)
	}
	letGo(t, w, "data-db-1")
	w.Await(t, "the third Pod", func() bool { return len(w.Pods(t, "app=db")) == 3 })
	if claimOf(t, w, "data-db-1").UID == old {
		t.Error("the claim is the old one")
	}
	old = claimOf(t, w, "data-db-2").UID
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), "data-db-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	letGo(t, w, "data-db-2")
	w.Await(t, "the claim to be there again", func() bool {
		claim, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data-db-2", metav1.GetOptions{})
		return err == nil && claim.UID != old
	})
	w.Event(t, "db", "SuccessfulCreate", "Create Claim data-db-2 Pod db-2 in StatefulSet db success")
}

// TestMembers: a Pod whose name is not of the set's form is not its, whatever its labels; one of the set has the label back
// that names it.
func TestMembers(t *testing.T) {
	w := start(t, func(s *appsv1.StatefulSetSpec) { *s.Replicas = 1 })
	w.Kubelet(t, "app=db")
	template := controltest.Template(db)
	stray := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "guest", Labels: db}, Spec: template.Spec}
	if _, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), stray, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "db-0", func() bool { return len(w.Pods(t, "app=db")) == 2 })
	if _, err := w.Client.CoreV1().Pods(ns).Patch(t.Context(), "db-0", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"statefulset.kubernetes.io/pod-name":null}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Event(t, "db", "SuccessfulUpdate", "Update Pod db-0 in StatefulSet db successful")
	for _, p := range w.Pods(t, "app=db") {
		if p.Name == "guest" && len(p.OwnerReferences) > 0 {
			t.Errorf("the stray Pod is owned by %s", p.OwnerReferences[0].Name)
		}
		if p.Name == "db-0" && p.Labels[appsv1.StatefulSetPodNameLabel] != "db-0" {
			t.Errorf("db-0 has labels %v", p.Labels)
		}
	}
}
