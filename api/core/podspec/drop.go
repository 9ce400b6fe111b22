package podspec

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// gate finds the fields of one feature that is off in Kubernetes v1.37 unless asked for. It says whether s uses them, and
// clears them if told to.
type gate func(s *corev1.PodSpec, clear bool) (used bool)

// gates lists the features, by the name of their feature gate there.
var gates = []gate{
	emptyDirVolumeMode,
	atomicWriteVolumeUserFields,
	crossNamespaceVolumeDataSource,
	volumeBindMountOptions,
	probeProtocols,
	containerStopSignals,
	func(s *corev1.PodSpec, clear bool) bool { return off(&s.SchedulingGroup, clear) },    // GenericWorkload
	func(s *corev1.PodSpec, clear bool) bool { return off(&s.EvictionResponders, clear) }, // EvictionRequestAPI
}

// DropDisabledFields clears what belongs to features that are off in Kubernetes v1.37, as a server there does. old is
// the spec that is replaced, nil if none is: what it uses stays usable.
func DropDisabledFields(s, old *corev1.PodSpec) {
	for _, g := range gates {
		if old == nil || !g(old, false) {
			g(s, true)
		}
	}
}

// DropDisabledTemplateFields is DropDisabledFields for a template and its metadata.
func DropDisabledTemplateFields(t, old *corev1.PodTemplateSpec) {
	DropInitContainerAnnotations(t.Annotations)
	if old == nil {
		DropDisabledFields(&t.Spec, nil)
		return
	}
	DropDisabledFields(&t.Spec, &old.Spec)
}

// DropInitContainerAnnotations removes the annotations that init containers were before they were a field: a kubelet
// that still knew them would run what nobody has validated.
func DropInitContainerAnnotations(annotations map[string]string) {
	for _, key := range []string{
		"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
		"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
	} {
		delete(annotations, key)
	}
}

// off says whether member is set, and clears it if told to.
func off[T any](member *T, clear bool) bool {
	v := reflect.ValueOf(member).Elem()
	used := !v.IsZero()
	if used && clear {
		v.SetZero()
	}
	return used
}

func emptyDirVolumeMode(s *corev1.PodSpec, clear bool) (used bool) {
	for i := range s.Volumes {
		if d := s.Volumes[i].EmptyDir; d != nil {
			used = off(&d.Mode, clear) || used
		}
	}
	return used
}

func atomicWriteVolumeUserFields(s *corev1.PodSpec, clear bool) (used bool) {
	items := func(l []corev1.KeyToPath) {
		for i := range l {
			used = off(&l[i].User, clear) || used
		}
	}
	files := func(l []corev1.DownwardAPIVolumeFile) {
		for i := range l {
			used = off(&l[i].User, clear) || used
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Secret != nil {
			used = off(&v.Secret.DefaultUser, clear) || used
			items(v.Secret.Items)
		}
		if v.ConfigMap != nil {
			used = off(&v.ConfigMap.DefaultUser, clear) || used
			items(v.ConfigMap.Items)
		}
		if v.DownwardAPI != nil {
			used = off(&v.DownwardAPI.DefaultUser, clear) || used
			files(v.DownwardAPI.Items)
		}
		if v.Projected == nil {
			continue
		}
		used = off(&v.Projected.DefaultUser, clear) || used
		for j := range v.Projected.Sources {
			src := &v.Projected.Sources[j]
			if src.Secret != nil {
				items(src.Secret.Items)
			}
			if src.ConfigMap != nil {
				items(src.ConfigMap.Items)
			}
			if src.DownwardAPI != nil {
				files(src.DownwardAPI.Items)
			}
			if src.ServiceAccountToken != nil {
				used = off(&src.ServiceAccountToken.User, clear) || used
			}
			if src.ClusterTrustBundle != nil {
				used = off(&src.ClusterTrustBundle.User, clear) || used
			}
			if src.PodCertificate != nil {
				used = off(&src.PodCertificate.User, clear) || used
			}
		}
	}
	return used
}

func crossNamespaceVolumeDataSource(s *corev1.PodSpec, clear bool) (used bool) {
	for i := range s.Volumes {
		e := s.Volumes[i].Ephemeral
		if e != nil && e.VolumeClaimTemplate != nil && e.VolumeClaimTemplate.Spec.DataSourceRef != nil {
			used = off(&e.VolumeClaimTemplate.Spec.DataSourceRef.Namespace, clear) || used
		}
	}
	return used
}

func volumeBindMountOptions(s *corev1.PodSpec, clear bool) (used bool) {
	visit(s, nil, func(c *corev1.Container, _ *field.Path) {
		for i := range c.VolumeMounts {
			used = off(&c.VolumeMounts[i].BindMountOptions, clear) || used
		}
	})
	return used
}

// probeProtocols is H2CContainerProbe and GRPCContainerProbeTLS.
func probeProtocols(s *corev1.PodSpec, clear bool) (used bool) {
	http := func(a *corev1.HTTPGetAction) {
		if a != nil {
			used = off(&a.Protocol, clear) || used
		}
	}
	visit(s, nil, func(c *corev1.Container, _ *field.Path) {
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p == nil {
				continue
			}
			http(p.HTTPGet)
			if p.GRPC != nil {
				used = off(&p.GRPC.Mode, clear) || used
			}
		}
		if c.Lifecycle == nil {
			return
		}
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				http(h.HTTPGet)
			}
		}
	})
	return used
}

func containerStopSignals(s *corev1.PodSpec, clear bool) (used bool) {
	visit(s, nil, func(c *corev1.Container, _ *field.Path) {
		if c.Lifecycle == nil || !off(&c.Lifecycle.StopSignal, clear) {
			return
		}
		used = true
		// Hooks that were nothing but a signal are none.
		if clear && c.Lifecycle.PostStart == nil && c.Lifecycle.PreStop == nil {
			c.Lifecycle = nil
		}
	})
	return used
}

// DropDisabledStatusFields is DropDisabledFields for a Pod's status.
func DropDisabledStatusFields(s, old *corev1.PodStatus) {
	if old.VolumeHealth == nil {
		s.VolumeHealth = nil // CSIVolumeHealth
	}
	if old.NodeAllocatableResourceClaimStatuses == nil {
		s.NodeAllocatableResourceClaimStatuses = nil // DRANodeAllocatableResources
	}
	for _, g := range []func(c *corev1.ContainerStatus, clear bool) bool{
		func(c *corev1.ContainerStatus, clear bool) bool { return off(&c.StopSignal, clear) }, // ContainerStopSignals
		func(c *corev1.ContainerStatus, clear bool) (used bool) { // ImageVolumeWithDigest
			for i := range c.VolumeMounts {
				used = off(&c.VolumeMounts[i].VolumeStatus, clear) || used
			}
			return used
		},
	} {
		if !inStatuses(old, func(c *corev1.ContainerStatus) bool { return g(c, false) }) {
			inStatuses(s, func(c *corev1.ContainerStatus) bool { return g(c, true) })
		}
	}
}

// inStatuses calls f for the status of each container and says whether any call was true.
func inStatuses(s *corev1.PodStatus, f func(c *corev1.ContainerStatus) bool) (any bool) {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			any = f(&list[i]) || any
		}
	}
	return any
}
