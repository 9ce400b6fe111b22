package componentstatus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/peapod/peapod/api/resource"
)

// TestParts: each part says for itself how it is, when it is asked.
func TestParts(t *testing.T) {
	var ill error
	s := Declaration().Virtual(resource.Env{Components: []resource.Component{
		{Name: "scheduler", Check: func(context.Context) error { return nil }},
		{Name: "etcd-0", Check: func(context.Context) error { return ill }},
	}})
	rows := func(o *metainternalversion.ListOptions) (all string) {
		t.Helper()
		list, err := s.(resource.Reader).List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list.(*corev1.ComponentStatusList).Items {
			row, err := kind{}.Row(&c)
			if err != nil {
				t.Fatal(err)
			}
			all += fmt.Sprintf("%q", row)
		}
		return all
	}
	well := `["etcd-0" "Healthy" "ok" ""]["scheduler" "Healthy" "ok" ""]`
	if got := rows(nil); got != well {
		t.Errorf("all are well: %s", got)
	}
	ill = errors.New("the disk is full")
	if got := rows(&metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "etcd-0")}); got != `["etcd-0" "Unhealthy" "" "the disk is full"]` {
		t.Errorf("one is ill: %s", got)
	}
	if got := rows(&metainternalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"a": "b"})}); got != "" {
		t.Errorf("with a label: %s", got)
	}
	if _, err := s.(resource.Reader).Get(t.Context(), "etcd-1", nil); !apierrors.IsNotFound(err) {
		t.Errorf("a part that is not: %v", err)
	}
}
