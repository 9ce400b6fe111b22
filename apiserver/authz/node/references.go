package node

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// References yields the objects in the Pod's own namespace that its kubelet needs to run it, some perhaps more than
// once: secrets, configmaps, persistentvolumeclaims, resourceclaims and the serviceaccount.
func References(pod *corev1.Pod) iter.Seq2[string, string] {
	return func(yield func(resource, name string) bool) {
		done := false
		emit := func(resource, name string) {
			if !done && name != "" && !yield(resource, name) {
				done = true
			}
		}
		emit(serviceAccounts, pod.Spec.ServiceAccountName)
		for _, s := range pod.Spec.ImagePullSecrets {
			emit(secrets, s.Name)
		}
		for i := range pod.Spec.InitContainers {
			environment(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom, emit)
		}
		for i := range pod.Spec.Containers {
			environment(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom, emit)
		}
		for i := range pod.Spec.EphemeralContainers {
			environment(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom, emit)
		}
		for i := range pod.Spec.Volumes {
			volume(pod, &pod.Spec.Volumes[i], emit)
		}
		for _, c := range pod.Spec.ResourceClaims {
			if c.ResourceClaimName != nil {
				emit(resourceClaims, *c.ResourceClaimName)
			}
		}
		for _, c := range pod.Status.ResourceClaimStatuses {
			if c.ResourceClaimName != nil {
				emit(resourceClaims, *c.ResourceClaimName)
			}
		}
		if e := pod.Status.ExtendedResourceClaimStatus; e != nil {
			emit(resourceClaims, e.ResourceClaimName)
		}
	}
}

func environment(env []corev1.EnvVar, from []corev1.EnvFromSource, emit func(resource, name string)) {
	for _, e := range from {
		if e.SecretRef != nil {
			emit(secrets, e.SecretRef.Name)
		}
		if e.ConfigMapRef != nil {
			emit(configMaps, e.ConfigMapRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			emit(secrets, r.Name)
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			emit(configMaps, r.Name)
		}
	}
}

func volume(pod *corev1.Pod, v *corev1.Volume, emit func(resource, name string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			emit(secrets, r.Name)
		}
	}
	switch {
	case v.Secret != nil:
		emit(secrets, v.Secret.SecretName)
	case v.ConfigMap != nil:
		emit(configMaps, v.ConfigMap.Name)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				emit(secrets, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				emit(configMaps, s.ConfigMap.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		emit(persistentVolumeClaims, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		emit(persistentVolumeClaims, pod.Name+"-"+v.Name)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		emit(secrets, v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	}
}

// volumeSecrets lists the secrets that a kubelet needs to mount the volume.
func volumeSecrets(pv *corev1.PersistentVolume) []object {
	var list []object
	namespace := ""
	if pv.Spec.ClaimRef != nil {
		namespace = pv.Spec.ClaimRef.Namespace
	}
	add := func(ns, name string) {
		if ns == "" {
			ns = namespace
		}
		if name != "" && ns != "" {
			list = append(list, object{secrets, ns, name})
		}
	}
	ref := func(r *corev1.SecretReference) {
		if r != nil {
			add(r.Namespace, r.Name)
		}
	}
	src := &pv.Spec.PersistentVolumeSource
	switch {
	case src.CSI != nil:
		ref(src.CSI.NodePublishSecretRef)
		ref(src.CSI.NodeStageSecretRef)
		ref(src.CSI.NodeExpandSecretRef)
	case src.AzureFile != nil:
		ns := ""
		if src.AzureFile.SecretNamespace != nil {
			ns = *src.AzureFile.SecretNamespace
		}
		add(ns, src.AzureFile.SecretName)
	case src.CephFS != nil:
		ref(src.CephFS.SecretRef)
	case src.Cinder != nil:
		ref(src.Cinder.SecretRef)
	case src.FlexVolume != nil:
		ref(src.FlexVolume.SecretRef)
	case src.RBD != nil:
		ref(src.RBD.SecretRef)
	case src.ScaleIO != nil:
		ref(src.ScaleIO.SecretRef)
	case src.ISCSI != nil:
		ref(src.ISCSI.SecretRef)
	case src.StorageOS != nil && src.StorageOS.SecretRef != nil:
		add(src.StorageOS.SecretRef.Namespace, src.StorageOS.SecretRef.Name)
	}
	return list
}
