package storageclass

import (
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func class(name string, age time.Duration, annotation, value string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{
		Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1_000_000, 0).Add(-age)), Annotations: map[string]string{annotation: value}}}
}

func TestTheNewestDefaultCounts(t *testing.T) {
	old, young := class("old", time.Hour, DefaultAnnotation, "true"), class("young", time.Minute, BetaDefaultAnnotation, "true")
	twin, not := class("a", time.Minute, DefaultAnnotation, "true"), class("0", 0, DefaultAnnotation, "false")
	for _, c := range []struct {
		list []*storagev1.StorageClass
		want *storagev1.StorageClass
	}{
		{nil, nil},
		{[]*storagev1.StorageClass{not}, nil},
		{[]*storagev1.StorageClass{old, not}, old},
		{[]*storagev1.StorageClass{young, old}, young},
		{[]*storagev1.StorageClass{old, young, twin}, twin},
		{[]*storagev1.StorageClass{twin, young, not}, twin},
	} {
		if got := Default(c.list); got != c.want {
			t.Errorf("default of %v is %v, want %v", c.list, got, c.want)
		}
	}
}
