package pod

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/peapod/peapod/api/core/podspec"
)

// PrepareForResize makes p, which is written to the resize subresource, differ from old in resources and resize policies
// alone. It raises the generation if they differ. Where the containers are not the same ones it leaves p as it is, for
// ValidateResize to refuse.
func PrepareForResize(p, old *corev1.Pod) {
	containers, ok := resized(p.Spec.Containers, old.Spec.Containers)
	init, okInit := resized(p.Spec.InitContainers, old.Spec.InitContainers)
	if ok && okInit {
		resources := p.Spec.Resources
		keepAllButSpec(p, old)
		p.Spec = old.Spec
		p.Spec.Containers, p.Spec.InitContainers, p.Spec.Resources = containers, init, resources
	}
	podspec.DropDisabledFields(&p.Spec, &old.Spec)
	raiseGeneration(p, old)
}

// resized returns old with the resources and resize policies of containers; ok is false if they are not the same
// containers in the same order.
func resized(containers, old []corev1.Container) (merged []corev1.Container, ok bool) {
	if len(containers) != len(old) {
		return nil, false
	}
	for i, c := range old {
		if containers[i].Name != c.Name {
			return nil, false
		}
		c.Resources, c.ResizePolicy = containers[i].Resources, containers[i].ResizePolicy
		merged = append(merged, c)
	}
	return merged, true
}

// ValidateResize checks a write to the resize subresource: cpu and memory of containers, and of the Pod as a whole, may
// change, but not so that the Pod's class of service does.
func ValidateResize(p, old *corev1.Pod) field.ErrorList {
	errs := validate(p, old)
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	if qos.GetPodQOS(old) != QOSClass(p) {
		errs = append(errs, field.Invalid(specPath, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !nodeCanResize(old) {
		errs = append(errs, field.Forbidden(specPath, "Pod running on node without support for resize"))
	}
	if len(old.Status.NodeAllocatableResourceClaimStatuses) > 0 {
		errs = append(errs, field.Forbidden(specPath, "pods with node allocatable resource claims cannot be resized"))
	}
	// What may change is put back as it was; whatever then differs may not.
	rest := p.Spec.DeepCopy()
	errs = append(errs, validatePodLevelResize(rest, &old.Spec)...)
	same := sameContainers(rest.InitContainers, old.Spec.InitContainers, "initContainers")
	same = append(same, sameContainers(rest.Containers, old.Spec.Containers, "containers")...)
	if len(same) > 0 {
		return append(errs, same...)
	}
	for i := range rest.InitContainers {
		errs = append(errs, validateInitResize(&rest.InitContainers[i], &old.Spec.InitContainers[i],
			specPath.Child("initContainers").Index(i))...)
	}
	const onlyCompute = "only cpu and memory resources are mutable"
	for i := range rest.Containers {
		c, was := &rest.Containers[i], &old.Spec.Containers[i]
		errs = append(errs, noneRemoved(&c.Resources, &was.Resources, "resource", specPath.Child("containers").Index(i).Child("resources"))...)
		putBack(c, was)
		if !apiequality.Semantic.DeepEqual(c, was) {
			errs = append(errs, field.Forbidden(specPath, onlyCompute))
		}
	}
	if len(errs) == 0 && !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, onlyCompute))
	}
	return errs
}

// validatePodLevelResize checks the resources of the Pod as a whole, and puts them back in s.
func validatePodLevelResize(s, old *corev1.PodSpec) field.ErrorList {
	path := specPath.Child("resources")
	switch {
	case old.Resources == nil && s.Resources == nil:
		return nil
	case s.Resources == nil:
		return field.ErrorList{field.Forbidden(path, "pod-level resources cannot be removed")}
	}
	was := old.Resources
	if was == nil {
		was = &corev1.ResourceRequirements{}
	}
	errs := noneRemoved(s.Resources, was, "pod-level resource", path)
	s.Resources.Limits = computeOf(s.Resources.Limits, was.Limits)
	s.Resources.Requests = computeOf(s.Resources.Requests, was.Requests)
	if !apiequality.Semantic.DeepEqual(s.Resources, was) {
		return append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable at pod-level"))
	}
	s.Resources = old.Resources
	return errs
}

// validateInitResize checks an init container, and puts its resources back. One that is not a sidecar cannot be resized by
// starting it again: that would be initializing again.
func validateInitResize(c, was *corev1.Container, path *field.Path) field.ErrorList {
	errs := noneRemoved(&c.Resources, &was.Resources, "resource", path.Child("resources"))
	changed := !apiequality.Semantic.DeepEqual(c, was)
	putBack(c, was)
	if !apiequality.Semantic.DeepEqual(c, was) {
		errs = append(errs, field.Forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"))
	}
	restarts := slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
		return p.RestartPolicy == corev1.RestartContainer
	})
	if changed && restarts && !podspec.IsSidecar(c) {
		errs = append(errs, field.Forbidden(path, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
	}
	return errs
}

func sameContainers(containers, old []corev1.Container, name string) field.ErrorList {
	path := specPath.Child(name)
	if len(containers) != len(old) {
		return field.ErrorList{field.Forbidden(path, name+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range containers {
		if containers[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// nodeCanResize says whether the Pod's node reports resources of running containers, as all that can change them do.
// Before any runs nobody knows.
func nodeCanResize(p *corev1.Pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

// noneRemoved checks that nothing in old is missing in r; what names it in the error.
func noneRemoved(r, old *corev1.ResourceRequirements, what string, path *field.Path) field.ErrorList {
	removed := func(l, old corev1.ResourceList) bool {
		for name := range old {
			if _, ok := l[name]; !ok {
				return true
			}
		}
		return false
	}
	var errs field.ErrorList
	if removed(r.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(path.Child("requests"), what+" requests cannot be removed"))
	}
	if removed(r.Limits, old.Limits) {
		errs = append(errs, field.Forbidden(path.Child("limits"), what+" limits cannot be removed"))
	}
	return errs
}

// putBack gives c the cpu and memory of was.
func putBack(c, was *corev1.Container) {
	c.Resources.Limits = computeOf(c.Resources.Limits, was.Resources.Limits)
	c.Resources.Requests = computeOf(c.Resources.Requests, was.Resources.Requests)
}

// computeOf returns l with the cpu and memory of was, if it has any.
func computeOf(l, was corev1.ResourceList) corev1.ResourceList {
	merged := corev1.ResourceList{}
	maps.Copy(merged, l)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(merged, name)
		if q, ok := was[name]; ok {
			merged[name] = q
		}
	}
	if len(merged) == 0 {
		return was
	}
	return merged
}
