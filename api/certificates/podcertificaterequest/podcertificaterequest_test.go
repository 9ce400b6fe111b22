package podcertificaterequest

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) {
	real := now
	defer func() { now = real }()
	now = func() time.Time { return time.Date(2026, 1, 2, 3, 1, 0, 0, time.UTC) }
	scenario.Run(t, Declaration(), "testdata")
}

// TestEnded: what a signer has answered stays.
func TestEnded(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC))
	old := &pcr{}
	old.Status.CertificateChain, old.Status.NotBefore, old.Status.BeginRefreshAt, old.Status.NotAfter = "chain", &at, &at, &at
	old.Status.Conditions = []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue, Reason: "Fine", Message: "m", LastTransitionTime: at}}
	later := metav1.NewTime(at.Add(time.Second))
	for want, change := range map[string]func(*pcr){
		"": func(o *pcr) {
			o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{Type: "Seen", Status: "True", Reason: "R", LastTransitionTime: at})
		},
		"status.certificateChain": func(o *pcr) { o.Status.CertificateChain += "x" },
		"status.notBefore":        func(o *pcr) { o.Status.NotBefore = &later },
		"status.beginRefreshAt":   func(o *pcr) { o.Status.BeginRefreshAt = nil },
		"status.notAfter":         func(o *pcr) { o.Status.NotAfter = &later },
		"status.conditions":       func(o *pcr) { o.Status.Conditions[0].Type = "Failed" },
	} {
		obj := old.DeepCopy()
		change(obj)
		errs := kind{}.ValidateStatusUpdate(t.Context(), obj, old)
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || errs[0].Field != want || !strings.Contains(errs[0].Error(), "immutable")) {
			t.Errorf("%q: %v", want, errs)
		}
	}
}
