package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings tell of fields that have no effect any more, and of addresses that are written in a doubtful way.
func (kind) Warnings(_ context.Context, obj, old *corev1.Node) []string {
	var warnings []string
	if obj.Spec.ConfigSource != nil {
		warnings = append(warnings, fmt.Sprintf("%s: the dynamic kubelet config feature is no longer supported",
			field.NewPath("spec", "configSource")))
	}
	if obj.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, fmt.Sprintf("%s: this field is no longer used",
			field.NewPath("spec", "externalID")))
	}
	if old == nil || old.Spec.PodCIDR == "" {
		for i, cidr := range obj.Spec.PodCIDRs {
			warnings = append(warnings,
				validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
		}
	}
	return warnings
}
