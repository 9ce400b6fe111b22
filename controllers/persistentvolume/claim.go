package persistentvolume

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/internal/storageclass"
)

// Reasons of events; upstream's.
const (
	reasonFailedBinding        = "FailedBinding"
	reasonVolumeMismatch       = "VolumeMismatch"
	reasonWaitForFirstConsumer = "WaitForFirstConsumer"
	reasonWaitForPodScheduled  = "WaitForPodScheduled"
	reasonProvisioningFailed   = "ProvisioningFailed"
	reasonExternalProvisioning = "ExternalProvisioning"
	reasonClaimLost            = "ClaimLost"
	reasonClaimMisbound        = "ClaimMisbound"
)

// note is an event to be written with a change.
type note struct{ kind, reason, message string }

func warn(reason, format string, args ...any) *note {
	return &note{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

func (c *controller) event(obj any, n *note) {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		c.recorder.Event(o, n.kind, n.reason, n.message)
	case *corev1.PersistentVolume:
		c.recorder.Event(o, n.kind, n.reason, n.message)
	}
}

func (c *controller) syncClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted) {
		return c.syncBoundClaim(ctx, claim)
	}
	if claim.Spec.VolumeName != "" {
		return c.syncRequestingClaim(ctx, claim)
	}
	return c.syncUnboundClaim(ctx, claim)
}

// syncUnboundClaim finds a volume for a claim that names none, or has one made.
func (c *controller) syncUnboundClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delayed, err := storage.IsDelayBindingMode(claim, c.classes)
	if err != nil {
		return fmt.Errorf("read storage class: %w", err)
	}
	volume, err := c.match(claim, delayed)
	if err != nil {
		return err
	}
	if volume != nil {
		return c.bind(ctx, volume, claim)
	}
	switch {
	case delayed && !storage.IsDelayBindingProvisioning(claim):
		if err := c.waitForConsumer(claim); err != nil {
			return err
		}
	case storage.GetPersistentVolumeClaimClass(claim) != "":
		return c.provision(ctx, claim)
	default:
		given, err := c.giveDefaultClass(ctx, claim)
		if err != nil || given {
			return err // the claim's event brings it back
		}
		c.event(claim, &note{corev1.EventTypeNormal, reasonFailedBinding, "no persistent volumes available for this claim and no storage class is set"})
	}
	return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
}

// match is the volume for a claim that names none: one that names the claim, else the smallest of those with the fewest
// access modes; nil if there is none. With delayed binding the scheduler chooses, and only its choice counts.
func (c *controller) match(claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	named := indexed[corev1.PersistentVolume](c.volumeIndex, volumesByClaim, claim.Namespace+"/"+claim.Name)
	free := indexed[corev1.PersistentVolume](c.volumeIndex, volumesByClass, storage.GetPersistentVolumeClaimClass(claim))
	groups := map[int][]*corev1.PersistentVolume{}
	for i, v := range append(named, free...) {
		if !storage.CheckAccessModes(claim, v) {
			continue
		}
		group := len(v.Spec.AccessModes)
		if i < len(named) {
			group = 0
		}
		groups[group] = append(groups[group], v)
	}
	sizes := make([]int, 0, len(groups))
	for size := range groups {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	for _, size := range sizes {
		v, err := storage.FindMatchingVolume(claim, groups[size], nil, nil, delayed, true)
		if err != nil || v != nil {
			return v, err
		}
	}
	return nil, nil
}

// waitForConsumer says what a claim of delayed binding waits for.
func (c *controller) waitForConsumer(claim *corev1.PersistentVolumeClaim) error {
	users, err := pods.UsersOf(c.podIndex, cache.MetaObjectToName(claim))
	if err != nil {
		return err
	}
	var unscheduled []string
	for _, p := range users {
		if p.Spec.NodeName == "" && p.DeletionTimestamp == nil {
			unscheduled = append(unscheduled, p.Name)
		}
	}
	n := &note{corev1.EventTypeNormal, reasonWaitForFirstConsumer, "waiting for first consumer to be created before binding"}
	if len(unscheduled) > 0 {
		slices.Sort(unscheduled)
		n.reason = reasonWaitForPodScheduled
		n.message = fmt.Sprintf("waiting for pod %s to be scheduled", strings.Join(unscheduled, ","))
		if len(unscheduled) > 1 {
			n.message = fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(unscheduled, ","))
		}
	}
	c.event(claim, n)
	return nil
}

// giveDefaultClass gives the default class to a claim that was made when there was none, and says whether it did.
func (c *controller) giveDefaultClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if storage.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	list, err := c.classes.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list storage classes: %w", err)
	}
	class := storageclass.Default(list)
	if class == nil {
		return false, nil
	}
	claim = claim.DeepCopy()
	claim.Spec.StorageClassName = &class.Name
	now, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return false, fmt.Errorf("give storage class %s to claim %s/%s: %w", class.Name, claim.Namespace, claim.Name, err)
	}
	c.wrote(now, c.claimIndex, now.ResourceVersion)
	return true, nil
}

// syncRequestingClaim binds a claim that asks for a certain volume.
func (c *controller) syncRequestingClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
	}
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	switch {
	case volume.Spec.ClaimRef == nil:
		if why := mismatch(volume, claim); why != "" {
			c.event(claim, warn(reasonVolumeMismatch, "Cannot bind to requested volume %q: %s", volume.Name, why))
			return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
		}
		return c.bind(ctx, volume, claim)
	case storage.IsVolumeBoundToClaim(volume, claim):
		return c.bind(ctx, volume, claim)
	case metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBoundByController):
		// Somebody took the mark of a completed binding away. What is right now only a person can say.
		return fmt.Errorf("invalid binding of claim %q to volume %q: volume already claimed by %q",
			claim.Namespace+"/"+claim.Name, volume.Name, volume.Spec.ClaimRef.Namespace+"/"+volume.Spec.ClaimRef.Name)
	}
	c.event(claim, warn(reasonFailedBinding, "volume %q already bound to a different claim.", volume.Name))
	return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
}

// mismatch says why a volume that a claim asks for is not fit for it; nothing if it is.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	has, wants := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case has.Cmp(wants) < 0:
		return "requested PV is too small"
	case storage.GetPersistentVolumeClass(v) != storage.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return "volumeAttributesClassName does not match"
	case storage.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !storage.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	}
	return ""
}

// syncBoundClaim looks after a claim that has been bound: its volume may be gone, or somebody else's.
func (c *controller) syncBoundClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	lost := func(n *note) error { return c.setClaim(ctx, claim, corev1.ClaimLost, nil, n) }
	if claim.Spec.VolumeName == "" {
		return lost(warn(reasonClaimLost, "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"))
	}
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) { // the informer of volumes may be behind that of claims
		volume, err = c.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return lost(warn(reasonClaimLost, "Bound claim has lost its PersistentVolume. Data on the volume is lost!"))
	case err != nil:
		return fmt.Errorf("read volume: %w", err)
	case volume.Spec.ClaimRef == nil, volume.Spec.ClaimRef.UID == claim.UID:
		return c.bind(ctx, volume, claim)
	}
	return lost(warn(reasonClaimMisbound, "Two claims are bound to the same volume, this one is bound incorrectly"))
}
