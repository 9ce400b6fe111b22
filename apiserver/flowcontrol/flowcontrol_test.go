package flowcontrol_test

import (
	"maps"
	"slices"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/flowcontrol"
	"github.com/peapod/peapod/apiserver/servertest"
)

const auto = flowcontrolv1.AutoUpdateAnnotationKey

func reconcile(t testing.TB, c kubernetes.Interface) {
	t.Helper()
	if err := flowcontrol.Reconcile(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// versions are the resource versions of all schemas and levels by name.
func versions(t *testing.T, c kubernetes.Interface) map[string]string {
	t.Helper()
	out := map[string]string{}
	schemas, err := c.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemas.Items {
		out["schema "+s.Name] = s.ResourceVersion
	}
	levels, err := c.FlowcontrolV1().PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range levels.Items {
		out["level "+l.Name] = l.ResourceVersion
	}
	return out
}

func TestEveryClusterHasSchemasAndLevels(t *testing.T) {
	c := servertest.Start(t, nil).Client(t)
	reconcile(t, c)
	made := versions(t, c)
	want := []string{
		"level catch-all", "level exempt", "level global-default", "level leader-election", "level node-high", "level system",
		"level workload-high", "level workload-low",
		"schema catch-all", "schema exempt", "schema global-default", "schema kube-controller-manager", "schema kube-scheduler",
		"schema kube-system-service-accounts", "schema probes", "schema service-accounts", "schema system-leader-election",
		"schema system-node-high", "schema system-nodes",
	}
	if got := slices.Sorted(maps.Keys(made)); !slices.Equal(got, want) {
		t.Errorf("the cluster has %q", got)
	}
	reconcile(t, c)
	if again := versions(t, c); !maps.Equal(made, again) {
		t.Errorf("what was there was written again: %v, %v", made, again)
	}
}

// What a user has made of them stays, but for the mandatory ones.
func TestWhatUsersChangeStays(t *testing.T) {
	ctx, c := t.Context(), servertest.Start(t, nil).Client(t)
	schemas, levels := c.FlowcontrolV1().FlowSchemas(), c.FlowcontrolV1().PriorityLevelConfigurations()
	reconcile(t, c)
	schema := func(name string, change func(*flowcontrolv1.FlowSchema)) {
		t.Helper()
		s, err := schemas.Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			change(s)
			_, err = schemas.Update(ctx, s, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	precedence := func(n int32, annotation string) func(*flowcontrolv1.FlowSchema) {
		return func(s *flowcontrolv1.FlowSchema) {
			s.Spec.MatchingPrecedence = n
			if s.Annotations[auto] = annotation; annotation == "" {
				delete(s.Annotations, auto)
			}
		}
	}
	schema("kube-scheduler", precedence(801, "false")) // left alone
	schema("probes", precedence(802, "true"))          // brought back
	schema("system-nodes", precedence(803, ""))        // changed by who does not say so: left alone, and marked
	schema("global-default", func(s *flowcontrolv1.FlowSchema) { delete(s.Annotations, auto) })
	schema("exempt", func(s *flowcontrolv1.FlowSchema) { s.Annotations[auto] = "false" }) // which is not heard
	for _, s := range []flowcontrolv1.FlowSchema{
		{ObjectMeta: metav1.ObjectMeta{Name: "of-old", Annotations: map[string]string{auto: "true"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "of-a-user"}},
	} {
		s.Spec.PriorityLevelConfiguration.Name = "system"
		if _, err := schemas.Create(ctx, &s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := schemas.Delete(ctx, "catch-all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	exempt, err := levels.Get(ctx, "exempt", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	exempt.Spec.Exempt.LendablePercent = ptr.To[int32](50)
	if _, err := levels.Update(ctx, exempt, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	reconcile(t, c)
	for name, want := range map[string]struct {
		precedence int32
		auto       string
	}{
		"kube-scheduler": {801, "false"}, "probes": {2, "true"}, "system-nodes": {803, "false"}, "global-default": {9900, "true"},
		"exempt": {1, "true"}, "of-a-user": {1000, ""}, "catch-all": {10000, "true"},
	} {
		s, err := schemas.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if s.Spec.MatchingPrecedence != want.precedence || s.Annotations[auto] != want.auto {
			t.Errorf("%s has precedence %d, annotation %q", name, s.Spec.MatchingPrecedence, s.Annotations[auto])
		}
	}
	if _, err := schemas.Get(ctx, "of-old", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is no longer made: %v", err)
	}
	if exempt, err = levels.Get(ctx, "exempt", metav1.GetOptions{}); err != nil || *exempt.Spec.Exempt.LendablePercent != 50 {
		t.Errorf("the exempt level is %+v: %v", exempt.Spec.Exempt, err)
	}
}
