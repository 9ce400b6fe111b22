package pod

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/peapod/peapod/api/core/podspec"
)

// Warnings implements resource.Warner. Nobody is warned of an update: it cannot mend the Pod, and is rarely a person's.
func (kind) Warnings(_ context.Context, p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var list []string
	if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
		list = append(list, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(list, podspec.Warnings(&p.ObjectMeta, &p.Spec, nil)...)
}
