package noderestriction

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// driverAsks says whether a CSI driver that has a volume of the Pod is to be told of tokens with that audience. The objects are read
// one by one: tokens that no projected volume asks for are few.
func (p *Plugin) driverAsks(ctx context.Context, pod *corev1.Pod, audience string) (bool, error) {
	for i := range pod.Spec.Volumes {
		name, err := p.driverOf(ctx, pod, &pod.Spec.Volumes[i])
		if name == "" && err == nil {
			continue
		}
		var driver *storagev1.CSIDriver
		if err == nil {
			driver, err = p.client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{})
		}
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return false, err
		case slices.ContainsFunc(driver.Spec.TokenRequests, func(r storagev1.TokenRequest) bool { return r.Audience == audience }):
			return true, nil
		}
	}
	return false, nil
}

// driverOf returns the driver that has a volume of the Pod; empty for none.
func (p *Plugin) driverOf(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case v.CSI != nil:
		return v.CSI.Driver, nil
	case v.Ephemeral != nil:
		claim = ephemeral.VolumeClaimName(pod, v)
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	default:
		return "", nil
	}
	c, err := p.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claim, metav1.GetOptions{})
	if err != nil || c.Spec.VolumeName == "" {
		return "", err
	}
	volume, err := p.client.CoreV1().PersistentVolumes().Get(ctx, c.Spec.VolumeName, metav1.GetOptions{})
	if err != nil || volume.Spec.CSI == nil {
		return "", err
	}
	return volume.Spec.CSI.Driver, nil
}
