package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

func claimOfVolume(obj any) ([]string, error) {
	v, ok := obj.(*corev1.PersistentVolume)
	if !ok || v.Spec.ClaimRef == nil {
		return nil, nil
	}
	return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}, nil
}

func classOfVolume(obj any) ([]string, error) {
	v, ok := obj.(*corev1.PersistentVolume)
	if !ok || v.Spec.ClaimRef != nil {
		return nil, nil
	}
	return []string{storage.GetPersistentVolumeClass(v)}, nil
}

func volumeOfClaim(obj any) ([]string, error) {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok || c.Spec.VolumeName == "" {
		return nil, nil
	}
	return []string{c.Spec.VolumeName}, nil
}

func classOfClaim(obj any) ([]string, error) {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok || c.Spec.VolumeName != "" {
		return nil, nil
	}
	return []string{storage.GetPersistentVolumeClaimClass(c)}, nil
}
