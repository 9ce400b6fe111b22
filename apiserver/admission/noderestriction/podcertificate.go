package noderestriction

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// podCertificate lets a node ask for certificates for Pods that are bound to it and want them, and say of them nothing but
// the truth: signers go by what the request says (KEP-4317).
func (p *Plugin) podCertificate(ctx context.Context, r request) error {
	if r.GetOperation() != admission.Create {
		return r.forbid("unexpected operation %q, node %q can only create pod certificate requests", r.GetOperation(), r.node)
	}
	if r.GetSubresource() != "" {
		return r.forbid("unexpected subresource %q, node %q can only create pod certificate requests", r.GetSubresource(), r.node)
	}
	obj, ok := r.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	spec := &obj.Spec
	if string(spec.NodeName) != r.node {
		return r.forbid("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, r.node)
	}
	uid, err := p.nodeUID(ctx, r, spec.NodeUID)
	if err != nil {
		return err
	}
	if uid != spec.NodeUID {
		return r.forbid("PodCertificateRequest for pod %q contains node UID (%q) which differs from the node's UID (%q)", spec.PodName, spec.NodeUID, uid)
	}
	pod, err := p.podOn(ctx, r, spec.PodName)
	if err != nil {
		return err
	}
	switch _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; {
	case mirror:
		return r.forbid("pod %q is a mirror pod", spec.PodName)
	case pod.Spec.NodeName != r.node:
		return r.forbid("pod %q is not running on node %q named in the PodCertificateRequest", spec.PodName, r.node)
	case pod.UID != spec.PodUID:
		return r.forbid("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", spec.PodName, spec.PodUID, pod.UID)
	case pod.Spec.ServiceAccountName != spec.ServiceAccountName:
		return r.forbid("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", spec.PodName, spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	case !wantsCertificate(pod, spec.SignerName):
		return r.forbid("pod %q has no podCertificate volume source of signer %q", spec.PodName, spec.SignerName)
	}
	account, err := p.client.CoreV1().ServiceAccounts(r.GetNamespace()).Get(ctx, spec.ServiceAccountName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		return r.forbid("error looking up service account %q to verify uid: %w", spec.ServiceAccountName, err)
	case account.UID != spec.ServiceAccountUID:
		return r.forbid("PodCertificateRequest for pod %q contains serviceAccountUID (%q) which differs from the service account's UID (%q)", spec.PodName, spec.ServiceAccountUID, account.UID)
	}
	return nil
}

func wantsCertificate(pod *corev1.Pod, signer string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.PodCertificate != nil && s.PodCertificate.SignerName == signer
		})
	})
}
