package event

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"
)

// Whatever is written through one version is read through the other and back without loss.
func TestConversionLosesNothing(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := register(scheme); err != nil {
		t.Fatal(err)
	}
	fill := randfill.NewWithSeed(1).NilChance(0.2).NumElements(0, 3).Funcs(
		func(at *metav1.Time, c randfill.Continue) { at.Time = time.Unix(c.Int63n(1<<32), 0) },
		func(at *metav1.MicroTime, c randfill.Continue) { at.Time = time.Unix(c.Int63n(1<<32), 0) },
	)
	for range 50 {
		var list, back eventsv1.EventList
		var core corev1.EventList
		fill.Fill(&list)
		list.TypeMeta = metav1.TypeMeta{}
		for i := range list.Items {
			list.Items[i].TypeMeta = metav1.TypeMeta{}
		}
		if err := scheme.Convert(&list, &core, nil); err != nil {
			t.Fatal(err)
		}
		if err := scheme.Convert(&core, &back, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(list, back); diff != "" {
			t.Fatalf("events.k8s.io -> core -> events.k8s.io (-was +is):\n%s", diff)
		}
	}
	for range 50 {
		var was, is corev1.Event
		var event eventsv1.Event
		fill.Fill(&was)
		was.TypeMeta = metav1.TypeMeta{}
		if err := scheme.Convert(&was, &event, nil); err != nil {
			t.Fatal(err)
		}
		if err := scheme.Convert(&event, &is, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, is); diff != "" {
			t.Fatalf("core -> events.k8s.io -> core (-was +is):\n%s", diff)
		}
	}
}

func TestFieldSelectorsAreTranslated(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := register(scheme); err != nil {
		t.Fatal(err)
	}
	gvk := eventsv1.SchemeGroupVersion.WithKind("Event")
	for label, want := range map[string]string{
		"regarding.name":      "involvedObject.name",
		"regarding.fieldPath": "involvedObject.fieldPath",
		"reportingController": "reportingComponent",
		"reason":              "reason",
		"metadata.name":       "metadata.name",
	} {
		got, value, err := scheme.ConvertFieldLabel(gvk, label, "x")
		if err != nil || got != want || value != "x" {
			t.Errorf("%s became %s=%s, %v; want %s", label, got, value, err, want)
		}
	}
	_, _, err := scheme.ConvertFieldLabel(gvk, "involvedObject.name", "x")
	if err == nil || err.Error() != "field label not supported: involvedObject.name" {
		t.Errorf("a label of the other version: %v", err)
	}
}
