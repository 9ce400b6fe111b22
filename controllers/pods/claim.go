package pods

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/claim"
)

// Claim returns the Pods of owner: those that it controls and whose labels still match, and those without a controller
// whose labels match, which it adopts. Pods whose labels no longer match are released. fresh reads the owner from the API.
func (c *Control) Claim(ctx context.Context, owner Owner, selector labels.Selector, fresh func(context.Context) (metav1.Object, error)) ([]*corev1.Pod, error) {
	var member func(*corev1.Pod) bool
	if c.Member != nil {
		member = func(p *corev1.Pod) bool { return c.Member(owner, p) }
	}
	claim := claim.Claim[*corev1.Pod]{
		Owner: owner, Kind: c.Kind, Selector: selector, Fresh: fresh, Member: member, Adoptable: Active, Finalizer: c.Finalizer,
		Owned: c.Index.Owned(owner.GetUID()), Free: c.Index.Orphans(owner.GetNamespace()),
		Patch: func(ctx context.Context, namespace, name string, body []byte) error {
			_, err := c.Client.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
			return err
		},
	}
	return claim.Run(ctx)
}
