package volume

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/peapod/peapod/kubelet/pod"
)

// trustAnchors returns the certificates of the bundles that a source selects, each once, as PEM without headers and what
// stands between the blocks. It is empty where there are none and the source is optional.
func (m *Manager) trustAnchors(ctx context.Context, s *v1.ClusterTrustBundleProjection) ([]byte, error) {
	if s.Name != nil {
		obj, err := m.objects.getOptional(ctx, objectRef{kind: bundleKind, name: *s.Name}, optional(s.Optional))
		if err != nil || obj == nil {
			return nil, err
		}
		return anchors([]*certificatesv1.ClusterTrustBundle{obj.(*certificatesv1.ClusterTrustBundle)}), nil
	}
	if s.SignerName == nil {
		return nil, errors.New("clusterTrustBundle: either name or signerName must be specified")
	}
	// Without a selector it selects none.
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("clusterTrustBundle: read labelSelector: %w", err)
	}
	store, changed, err := m.objects.await(ctx, objectRef{kind: signerKind, name: *s.SignerName})
	if err != nil {
		return nil, err
	}
	var list []*certificatesv1.ClusterTrustBundle
	for _, obj := range store.List() {
		if b := obj.(*certificatesv1.ClusterTrustBundle); selector.Matches(labels.Set(b.Labels)) {
			list = append(list, b)
		}
	}
	if len(list) == 0 && !optional(s.Optional) {
		return nil, &pod.RetryError{Ready: changed, Err: fmt.Errorf("combination of signerName %q and labelSelector %q matched zero ClusterTrustBundles",
			*s.SignerName, metav1.FormatLabelSelector(s.LabelSelector))}
	}
	return anchors(list), nil
}

// anchors unites bundles, in the order of their names, so that the same bundles give the same file.
func anchors(list []*certificatesv1.ClusterTrustBundle) []byte {
	slices.SortFunc(list, func(a, b *certificatesv1.ClusterTrustBundle) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, b := range list {
		out.Write(bareBlocks(b.Spec.TrustBundle, seen))
	}
	return out.Bytes()
}

// bareBlocks returns the certificates in a text that were not seen yet, without headers and what stands between them.
func bareBlocks(text string, seen map[string]bool) []byte {
	var out bytes.Buffer
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" || seen[string(block.Bytes)] {
			continue
		}
		seen[string(block.Bytes)] = true
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	return out.Bytes()
}
