package validatingadmissionpolicystatus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/peapod/peapod/controllers/validatingadmissionpolicystatus"
	"github.com/peapod/peapod/test/controltest"
)

// checked waits until the policy's generation has been looked at.
func checked(t *testing.T, w *controltest.World, generation int64) *admissionv1.ValidatingAdmissionPolicy {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	policies := w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	lw := cache.NewFilteredListWatchFromClient(w.Client.AdmissionregistrationV1().RESTClient(), "validatingadmissionpolicies", "",
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", "p").String()
		})
	_, err := watchtools.UntilWithSync(ctx, lw, &admissionv1.ValidatingAdmissionPolicy{}, nil, func(e watch.Event) (bool, error) {
		p, ok := e.Object.(*admissionv1.ValidatingAdmissionPolicy)
		return ok && p.Status.ObservedGeneration >= generation, nil
	})
	if err != nil {
		t.Fatalf("generation %d is not checked: %v", generation, err)
	}
	p, err := policies.Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExpressionsAreCheckedAgainstSchemas(t *testing.T) {
	w := controltest.Start(t, validatingadmissionpolicystatus.New)
	policies := w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	_, err := policies.Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule: admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}}}}}},
			Variables: []admissionv1.Variable{{Name: "replicas", Expression: "object.spec.replicas"}},
			Validations: []admissionv1.Validation{
				{Expression: "object.spec.replicas > '1'"},
				{Expression: "variables.replicas > 1", MessageExpression: "'wanted: ' + object.spec.replica"},
			}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := checked(t, w, 1)
	if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 2 {
		t.Fatalf("status: %+v, want two warnings", p.Status)
	}
	for i, want := range []struct{ field, text string }{
		{"spec.validations[0].expression", "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"},
		{"spec.validations[1].messageExpression", "undefined field 'replica'"},
	} {
		got := p.Status.TypeChecking.ExpressionWarnings[i]
		if got.FieldRef != want.field || !strings.Contains(strings.ReplaceAll(got.Warning, "compilation failed: ", ""), want.text) {
			t.Errorf("warning %d: got %+v, want %s at %s", i, got, want.text, want.field)
		}
	}
	mended := `[{"op":"replace","path":"/spec/validations","value":[{"expression":"object.spec.replicas > 1"}]}]`
	if _, err := policies.Patch(t.Context(), "p", types.JSONPatchType, []byte(mended), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if p = checked(t, w, 2); p.Status.TypeChecking != nil && len(p.Status.TypeChecking.ExpressionWarnings) > 0 {
		t.Errorf("status of the mended policy: %+v", p.Status.TypeChecking)
	}
}
