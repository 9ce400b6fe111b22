package podspec

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// deletionCostKey says how dear a Pod is to its ReplicaSet.
const deletionCostKey = "controller.kubernetes.io/pod-deletion-cost"

// ValidateAnnotations checks the annotations of a Pod, or of a template, that mean something.
func ValidateAnnotations(annotations map[string]string, s *corev1.PodSpec, path *field.Path, o Options) field.ErrorList {
	var errs field.ErrorList
	if value, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && s.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if value := annotations[corev1.TolerationsAnnotationKey]; value != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &tolerations); err != nil {
			errs = append(errs, field.Invalid(path, corev1.TolerationsAnnotationKey, err.Error()))
		} else {
			errs = append(errs, v.Tolerations(tolerations, path.Child(corev1.TolerationsAnnotationKey))...)
		}
	}
	if _, err := deletionCost(annotations); err != nil && !toleratedOf(o).deletionCost {
		errs = append(errs, field.Invalid(path.Key(deletionCostKey), annotations[deletionCostKey], "must be a 32bit integer"))
	}
	keys := make([]string, 0, len(annotations))
	for key := range annotations {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		value := annotations[key]
		switch {
		case key == corev1.SeccompPodAnnotationKey, strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix):
			errs = append(errs, checkSeccompAnnotation(value, path.Child(key))...)
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			errs = append(errs, checkAppArmorAnnotation(key, value, s, path.Key(key))...)
		}
	}
	return errs
}

// deletionCost reads the cost of deleting a Pod, which is zero unless it says otherwise.
func deletionCost(annotations map[string]string) (int32, error) {
	value, ok := annotations[deletionCostKey]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0, err
	}
	// One way of writing a number is enough: no plus sign, no leading zero.
	if strings.HasPrefix(value, "+") || (len(value) > 1 && strings.HasPrefix(value, "0")) {
		return 0, fmt.Errorf("invalid value %q", value)
	}
	return int32(n), nil
}

func checkSeccompAnnotation(value string, path *field.Path) field.ErrorList {
	switch {
	case value == corev1.SeccompProfileRuntimeDefault, value == corev1.DeprecatedSeccompProfileDockerDefault,
		value == corev1.SeccompProfileNameUnconfined:
		return nil
	case strings.HasPrefix(value, corev1.SeccompLocalhostProfileNamePrefix):
		return v.DescendingPath(strings.TrimPrefix(value, corev1.SeccompLocalhostProfileNamePrefix), path)
	}
	return field.ErrorList{field.Invalid(path, value, "must be a valid seccomp profile")}
}

func checkAppArmorAnnotation(key, value string, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name, found := strings.TrimPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix), false
	visit(s, nil, func(c *corev1.Container, _ *field.Path) { found = found || c.Name == name })
	if !found {
		errs = append(errs, field.Invalid(path, name, "container not found"))
	}
	switch {
	case value == "", value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault, value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined,
		strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
	default:
		errs = append(errs, field.Invalid(path, value, fmt.Sprintf("invalid AppArmor profile name: %q", value)))
	}
	return errs
}

// seccompAnnotationsMatch checks that the annotations seccomp once was set by say the same as the fields, where both are.
func seccompAnnotationsMatch(m *metav1.ObjectMeta, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	match := func(key string, p *corev1.SeccompProfile, at *field.Path) {
		annotation, ok := m.Annotations[key]
		if !ok || p == nil {
			return
		}
		const detail = "seccomp type in annotation and field must match"
		at = at.Child("securityContext", "seccompProfile")
		bad := false
		switch p.Type {
		case corev1.SeccompProfileTypeUnconfined:
			bad = annotation != corev1.SeccompProfileNameUnconfined
		case corev1.SeccompProfileTypeRuntimeDefault:
			bad = annotation != corev1.SeccompProfileRuntimeDefault && annotation != corev1.DeprecatedSeccompProfileDockerDefault
		case corev1.SeccompProfileTypeLocalhost:
			file, local := strings.CutPrefix(annotation, corev1.SeccompLocalhostProfileNamePrefix)
			bad = !local
			if local && (p.LocalhostProfile == nil || *p.LocalhostProfile != file) {
				errs = append(errs, field.Forbidden(at.Child("localhostProfile"), "seccomp profile in annotation and field must match"))
			}
		}
		if bad {
			errs = append(errs, field.Forbidden(at.Child("type"), detail))
		}
	}
	if s.SecurityContext != nil {
		match(corev1.SeccompPodAnnotationKey, s.SecurityContext.SeccompProfile, path)
	}
	visit(s, path, func(c *corev1.Container, at *field.Path) {
		if c.SecurityContext != nil {
			match(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, c.SecurityContext.SeccompProfile, at)
		}
	})
	return errs
}

// ValidateProfileAnnotations checks that the annotations seccomp and AppArmor once were set by say the same as the fields
// of a new Pod, whose PodSpec is at path.
func ValidateProfileAnnotations(m *metav1.ObjectMeta, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := seccompAnnotationsMatch(m, s, path)
	if s.OS != nil && s.OS.Name == corev1.Windows {
		return errs
	}
	visit(s, path, func(c *corev1.Container, at *field.Path) {
		annotation, ok := m.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		var p *corev1.AppArmorProfile
		if s.SecurityContext != nil {
			p = s.SecurityContext.AppArmorProfile
		}
		if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			p = c.SecurityContext.AppArmorProfile
		}
		if !ok || p == nil {
			return
		}
		at = at.Child("securityContext", "appArmorProfile")
		bad := false
		switch p.Type {
		case corev1.AppArmorProfileTypeUnconfined:
			bad = annotation != corev1.DeprecatedAppArmorBetaProfileNameUnconfined
		case corev1.AppArmorProfileTypeRuntimeDefault:
			bad = annotation != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
		case corev1.AppArmorProfileTypeLocalhost:
			name, local := strings.CutPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
			bad = !local
			if local && (p.LocalhostProfile == nil || *p.LocalhostProfile != name) {
				errs = append(errs, field.Forbidden(at.Child("localhostProfile"), "apparmor profile in annotation and field must match"))
			}
		}
		if bad {
			errs = append(errs, field.Forbidden(at.Child("type"), "apparmor type in annotation and field must match"))
		}
	})
	return errs
}
