package hook

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// lenient returns webhooks that nobody could create today.
func lenient() []admissionv1.MutatingWebhook {
	one := func(class admissionv1.SideEffectClass, version string) admissionv1.MutatingWebhook {
		return admissionv1.MutatingWebhook{
			Name: "a.example.com", SideEffects: ptr.To(class), AdmissionReviewVersions: []string{version},
			ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To("https://host")},
			ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "a", Operator: metav1.LabelSelectorOpIn, Values: []string{"!"}}}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: "objekt"}},
		}
	}
	return []admissionv1.MutatingWebhook{one(admissionv1.SideEffectClassSome, "v7"), one(admissionv1.SideEffectClassNone, "v1")}
}

func TestWhatWebhooksHadMayStay(t *testing.T) {
	if errs := CheckWebhooks(lenient(), lenient()); len(errs) > 0 {
		t.Errorf("an update that changes nothing is refused: %v", errs.ToAggregate())
	}
	wants(t, CheckWebhooks(lenient(), nil), "webhooks[0].admissionReviewVersions", "webhooks[0].sideEffects",
		"webhooks[0].objectSelector.matchExpressions[0].values[0]", "webhooks[0].matchConditions[0].expression", "webhooks[1].name: Duplicate value")
	changed := lenient()
	changed[0].MatchConditions[0].Expression = "objekt == 1"
	wants(t, CheckWebhooks(changed, lenient()), "webhooks[0].matchConditions[0].expression")
}

// An expression that was stored is read with what the language has had since; a new one with what every server has.
func TestStoredExpressions(t *testing.T) {
	e := NewExpressions(false, "old")
	if got := e.mode("old"); got != "StoredExpressions" {
		t.Errorf("stored expression: mode %v", got)
	}
	if got := e.mode("new"); got != "NewExpressions" {
		t.Errorf("new expression: mode %v", got)
	}
}

// wants checks that each of the fields is complained of.
func wants(t *testing.T, errs field.ErrorList, fields ...string) {
	t.Helper()
	for _, f := range fields {
		found := false
		for _, err := range errs {
			found = found || strings.HasPrefix(err.Error(), f)
		}
		if !found {
			t.Errorf("nothing said of %s in %v", f, errs)
		}
	}
}
