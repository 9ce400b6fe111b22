package pods

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"
)

// byClaim is the index of Pods by the persistent volume claims, namespace/name, that their volumes name.
const byClaim = "pods.claim"

// IndexClaims has the informer of Pods find them by their claims, for UsersOf. It must come before the informer starts, and may
// come again.
func IndexClaims(informer cache.SharedIndexInformer) error {
	if _, have := informer.GetIndexer().GetIndexers()[byClaim]; have {
		return nil
	}
	err := informer.AddIndexers(cache.Indexers{byClaim: func(obj any) ([]string, error) {
		p, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		names := ClaimNames(p)
		for i := range names {
			names[i] = p.Namespace + "/" + names[i]
		}
		return names, nil
	}})
	if err != nil {
		return fmt.Errorf("index pods by claim: %w", err)
	}
	return nil
}

// ClaimNames are the claims, in the Pod's namespace, that its volumes name, those of its ephemeral volumes included.
func ClaimNames(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(p, v))
		}
	}
	return names
}

// UsersOf lists the Pods whose volumes name the claim; IndexClaims must have been called. That an ephemeral volume's name fits
// does not make the claim the Pod's.
func UsersOf(indexer cache.Indexer, claim cache.ObjectName) ([]*corev1.Pod, error) {
	list, err := indexer.ByIndex(byClaim, claim.String())
	if err != nil {
		return nil, fmt.Errorf("find pods of claim %s: %w", claim, err)
	}
	out := make([]*corev1.Pod, 0, len(list))
	for _, obj := range list {
		if p, ok := obj.(*corev1.Pod); ok {
			out = append(out, p)
		}
	}
	return out, nil
}
