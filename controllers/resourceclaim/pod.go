package resourceclaim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"
)

// fieldManager is the manager of the names that are written to Pods, upstream's.
const fieldManager = "ResourceClaimController"

// maxBase is how much of the names of Pod and claim the name of a claim begins with, so that it fits into 63 bytes.
const maxBase = 57

// attempts is how many names are tried for a claim before it is put off.
const attempts = 5

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// syncPod makes the claims that a Pod lacks, tells it their names, and reserves claims for a Pod that came to its node without the
// scheduler.
func (c *controller) syncPod(ctx context.Context, name cache.ObjectName) error {
	p, err := c.pods.Pods(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) || err == nil && (p.DeletionTimestamp != nil || over(p)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod %s: %w", name, err)
	}
	var made []corev1.PodResourceClaimStatus
	for i := range p.Spec.ResourceClaims {
		wanted := &p.Spec.ResourceClaims[i]
		claim, err := c.provide(ctx, p, wanted)
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil // nothing can be made there, and the Pod goes too
		case err != nil:
			c.recorder.Eventf(p, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", wanted.Name, err)
			if apierrors.IsNotFound(err) {
				return nil // the template's appearance brings the Pod back
			}
			return fmt.Errorf("pod %s, PodResourceClaim %s: %w", name, wanted.Name, err)
		case claim != "":
			made = append(made, corev1.PodResourceClaimStatus{Name: wanted.Name, ResourceClaimName: &claim})
		}
	}
	if len(made) > 0 {
		return c.tell(ctx, p, made) // the Pod's change brings it back
	}
	if p.Spec.NodeName == "" {
		return nil // the scheduler reserves
	}
	return c.reserve(ctx, p)
}

// provide returns the name of the claim that was made for a Pod now, empty if there is nothing to tell the Pod.
func (c *controller) provide(ctx context.Context, p *corev1.Pod, wanted *corev1.PodResourceClaim) (string, error) {
	name, own, err := resourceclaim.Name(p, wanted)
	switch {
	case errors.Is(err, resourceclaim.ErrClaimNotFound):
	case err != nil:
		return "", fmt.Errorf("checking for claim before creating it: %w", err)
	case name == nil || wanted.ResourceClaimTemplateName == nil:
		return "", nil
	default:
		claim, err := c.claims.ResourceClaims(p.Namespace).Get(*name)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("read claim %s: %w", *name, err)
		}
		if err == nil && (!own || resourceclaim.IsForPod(p, claim, false) == nil) {
			return "", nil
		}
	}
	template, err := c.client.ResourceV1().ResourceClaimTemplates(p.Namespace).Get(ctx, *wanted.ResourceClaimTemplateName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if err := c.watchTemplates(ctx); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *wanted.ResourceClaimTemplateName, err)
	}
	return c.create(ctx, p, wanted, template)
}

// create makes a claim from a template. Its name follows from the Pod's UID and the claim, so that who tries again finds what was made
// before, whatever informers know.
func (c *controller) create(ctx context.Context, p *corev1.Pod, wanted *corev1.PodResourceClaim, template *resourcev1.ResourceClaimTemplate) (string, error) {
	claims := c.client.ResourceV1().ResourceClaims(p.Namespace)
	base := baseName(p.Name, wanted.Name)
	annotations := maps.Clone(template.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[resourcev1.PodResourceClaimAnnotation] = wanted.Name
	for n := range attempts {
		claim := &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Name: base + suffix(p.UID, wanted.Name, n), GenerateName: base, Labels: template.Spec.Labels, Annotations: annotations,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: podKind.Version, Kind: podKind.Kind, Name: p.Name, UID: p.UID, Controller: ptr.To(true)}}},
			Spec: template.Spec.Spec,
		}
		_, err := claims.Create(ctx, claim, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) { // else it is another's, or was counted
			created(claim, err)
		}
		if err == nil {
			return claim.Name, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create ResourceClaim %s: %w", claim.Name, err)
		}
		there, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("read ResourceClaim %s: %w", claim.Name, err)
		}
		if err == nil && resourceclaim.IsForPod(p, there, false) == nil && there.Annotations[resourcev1.PodResourceClaimAnnotation] == wanted.Name {
			return claim.Name, nil
		}
	}
	return "", fmt.Errorf("create ResourceClaim: the names that begin with %s are taken by others: delete some of them", base)
}

// baseName is what the name of a Pod's claim begins with: both names, each cut by the same share where they are too long.
func baseName(pod, claim string) string {
	base := pod + "-" + claim + "-"
	if n := len(base); n > maxBase {
		return pod[:len(pod)*maxBase/n] + "-" + claim[:len(claim)*maxBase/n]
	}
	return base
}

// suffix is five letters and digits that follow from what is given.
func suffix(pod types.UID, claim string, attempt int) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%s/%d", pod, claim, attempt) // a hash does not fail
	return rand.SafeEncodeString(fmt.Sprintf("%05d", h.Sum32()%100000))
}

// tell writes the names of claims to the Pod's status, beside those that it knows.
func (c *controller) tell(ctx context.Context, p *corev1.Pod, made []corev1.PodResourceClaimStatus) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status":   map[string]any{"resourceClaimStatuses": made},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("update pod %s/%s ResourceClaimStatuses: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// reserve adds the Pod to the users of its claims that are allocated.
func (c *controller) reserve(ctx context.Context, p *corev1.Pod) error {
	for i := range p.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil {
			return err
		}
		if name == nil {
			continue
		}
		claim, err := c.claims.ResourceClaims(p.Namespace).Get(*name)
		if apierrors.IsNotFound(err) {
			return nil // its appearance brings the Pod back
		}
		if err != nil {
			return fmt.Errorf("read claim %s: %w", *name, err)
		}
		if own {
			if err := resourceclaim.IsForPod(p, claim, false); err != nil {
				return err
			}
		}
		if claim.Status.Allocation == nil || claim.DeletionTimestamp != nil || resourceclaim.IsReservedForPod(p, claim, false) || !resourceclaim.CanBeReserved(claim) {
			continue
		}
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		_, err = c.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reserve claim %s: %w", *name, err)
		}
	}
	return nil
}
