package daemon

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/internal/storageclass"
)

func TestTheStorageClassIsMadeOnce(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	classes := client.StorageV1().StorageClasses()
	start := func() {
		t.Helper()
		if err := bootstrapObjects(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	start()
	class, err := classes.Get(t.Context(), localpath.ClassName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !storageclass.IsDefault(class) || class.Provisioner != "peapod.io/local-path" || *class.ReclaimPolicy != "Delete" || *class.VolumeBindingMode != "WaitForFirstConsumer" ||
		!*class.AllowVolumeExpansion {
		t.Errorf("made %+v", class)
	}
	// A start that was cut off before it could note what it had made.
	forget := []byte(`{"metadata":{"annotations":{"` + classMade + `":null}}}`)
	if _, err := client.CoreV1().Namespaces().Patch(t.Context(), "kube-system", types.MergePatchType, forget, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	start()
	// What the user deletes stays deleted.
	if err := classes.Delete(t.Context(), localpath.ClassName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	start()
	if list, err := classes.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("the class came back: %v, %v", list.Items, err)
	}
}
