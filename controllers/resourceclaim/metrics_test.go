package resourceclaim

import (
	"errors"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/utils/ptr"
)

// Each claim counts where it stands now.
func TestMetrics(t *testing.T) {
	counted().claims.Reset()
	counted().creates.Reset()
	manual := &resourcev1.ResourceClaim{Spec: spec()}
	admin := manual.DeepCopy()
	admin.Spec.Devices.Requests[0].Exactly.AdminAccess = ptr.To(true)
	admin.Annotations = map[string]string{resourcev1.PodResourceClaimAnnotation: "gpu"}
	extended := manual.DeepCopy()
	extended.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	allocated := extended.DeepCopy()
	allocated.Status.Allocation = &resourcev1.AllocationResult{}
	changed(nil, manual)
	changed(nil, manual)
	changed(nil, admin)
	changed(nil, extended)
	changed(extended, allocated)
	changed(manual, nil)
	for labels, want := range map[[3]string]float64{
		{"false", "false", ""}:                       1,
		{"false", "true", "resource_claim_template"}: 1,
		{"false", "false", "extended_resource"}:      0,
		{"true", "false", "extended_resource"}:       1,
	} {
		got, err := testutil.GetGaugeMetricValue(counted().claims.WithLabelValues(labels[:]...))
		if err != nil || got != want {
			t.Errorf("%v: %v, %v, want %v", labels, got, err, want)
		}
	}
	created(manual, nil)
	created(admin, errors.New("no"))
	for labels, want := range map[[2]string]float64{{"success", "false"}: 1, {"failure", "true"}: 1, {"failure", "false"}: 0} {
		got, err := testutil.GetCounterMetricValue(counted().creates.WithLabelValues(labels[:]...))
		if err != nil || got != want {
			t.Errorf("%v: %v, %v, want %v", labels, got, err, want)
		}
	}
}
