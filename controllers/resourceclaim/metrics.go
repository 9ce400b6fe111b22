package resourceclaim

import (
	"strconv"
	"sync"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// counts are the controller's metrics, named as upstream's. They exist from the first claim.
type counts struct {
	creates *metrics.CounterVec
	claims  *metrics.GaugeVec
}

var counted = sync.OnceValue(func() *counts {
	const subsystem = "resourceclaim_controller"
	c := &counts{
		creates: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: subsystem, Name: "creates_total", StabilityLevel: metrics.ALPHA,
			Help: "Number of requests to create ResourceClaims, by what became of them and administrators' access",
		}, []string{"status", "admin_access"}),
		claims: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Subsystem: subsystem, Name: "resource_claims", StabilityLevel: metrics.ALPHA,
			Help: "Number of ResourceClaims, by whether they have devices, administrators' access, and what they were made for: " +
				"a template (resource_claim_template), extended resources (extended_resource) or, by users, nothing",
		}, []string{"allocated", "admin_access", "source"}),
	}
	legacyregistry.MustRegister(c.creates, c.claims)
	return c
})

// created counts a request to create a claim.
func created(claim *resourcev1.ResourceClaim, err error) {
	status := "success"
	if err != nil {
		status = "failure"
	}
	counted().creates.WithLabelValues(status, adminAccess(claim)).Inc()
}

// changed counts a claim that appeared (old nil), changed, or went (new nil).
func changed(old, new *resourcev1.ResourceClaim) {
	if old != nil {
		counted().claims.WithLabelValues(labels(old)...).Dec()
	}
	if new != nil {
		counted().claims.WithLabelValues(labels(new)...).Inc()
	}
}

func labels(claim *resourcev1.ResourceClaim) []string {
	source := ""
	switch {
	case claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true":
		source = "extended_resource"
	case claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "":
		source = "resource_claim_template"
	}
	return []string{strconv.FormatBool(claim.Status.Allocation != nil), adminAccess(claim), source}
}

func adminAccess(claim *resourcev1.ResourceClaim) string {
	for i := range claim.Spec.Devices.Requests {
		if e := claim.Spec.Devices.Requests[i].Exactly; e != nil && e.AdminAccess != nil && *e.AdminAccess {
			return "true"
		}
	}
	return "false"
}
