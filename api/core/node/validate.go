package node

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Annotations of old that are still checked.
const (
	taintsAnnotation    = "scheduler.alpha.kubernetes.io/taints"
	avoidPodsAnnotation = corev1.PreferAvoidPodsAnnotationKey
)

// featureName is one UpperCamelCase segment and any number of further ones.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z0-9]+)*$`)

// Validate checks a new Node, whose status may already be set.
func (kind) Validate(_ context.Context, obj *corev1.Node) field.ErrorList {
	metadata, status := field.NewPath("metadata"), field.NewPath("status")
	errs := validateAnnotations(obj.Annotations, metadata.Child("annotations"))
	// Taints are reported under metadata, where Kubernetes reports them.
	errs = append(errs, validateTaints(obj.Spec.Taints, metadata.Child("taints"))...)
	errs = append(errs, validateAmounts(obj)...)
	if swap := obj.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil && *swap.Capacity <= 0 {
		errs = append(errs, field.Invalid(metadata.Child("nodeSwapStatus", "capacity"), *swap.Capacity,
			"must be greater than zero"))
	}
	errs = append(errs, validateFeatures(obj.Status.DeclaredFeatures, status.Child("declaredFeatures"))...)
	return append(errs, validatePodCIDRs(obj.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
}

func validatePodCIDRs(cidrs []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), cidr, true, nil)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(path,
			fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

// ValidateUpdate checks what may change: addresses of the node's Pods and its identity at the provider are set once.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *corev1.Node) field.ErrorList {
	return append(k.Validate(ctx, obj), validateChange(obj, old)...)
}

// ValidateStatusUpdate checks a status, and with it the metadata that a kubelet may change.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *corev1.Node) field.ErrorList {
	return validateChange(obj, old)
}

func validateChange(obj, old *corev1.Node) field.ErrorList {
	metadata, spec, status := field.NewPath("metadata"), field.NewPath("spec"), field.NewPath("status")
	errs := validateAnnotations(obj.Annotations, metadata.Child("annotations"))
	errs = append(errs, validateAmounts(obj)...)
	errs = append(errs, validateFeatures(obj.Status.DeclaredFeatures, status.Child("declaredFeatures"))...)
	errs = append(errs, validateAddresses(obj.Status.Addresses, status.Child("addresses"))...)
	errs = append(errs, validatePodCIDRChange(obj.Spec.PodCIDRs, old.Spec.PodCIDRs, spec.Child("podCIDRs"))...)
	if old.Spec.ProviderID != "" && obj.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"),
			`node updates may not change providerID except from "" to valid`))
	}
	if obj.Spec.ConfigSource != nil {
		errs = append(errs, validateConfigSource(obj.Spec.ConfigSource, false, spec.Child("configSource"))...)
	}
	if config := obj.Status.Config; config != nil {
		path := status.Child("config")
		for _, s := range []struct {
			name   string
			source *corev1.NodeConfigSource
		}{{"assigned", config.Assigned}, {"active", config.Active}, {"lastKnownGood", config.LastKnownGood}} {
			if s.source != nil {
				errs = append(errs, validateConfigSource(s.source, true, path.Child(s.name))...)
			}
		}
	}
	errs = append(errs, validateTaints(obj.Spec.Taints, metadata.Child("taints"))...)
	if obj.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

func validatePodCIDRChange(cidrs, old []string, path *field.Path) field.ErrorList {
	if len(old) == 0 {
		return nil
	}
	var errs field.ErrorList
	const msg = `node updates may not change podCIDR except from "" to valid`
	if len(cidrs) != len(old) {
		return append(errs, field.Forbidden(path, msg))
	}
	for i := range old {
		if cidrs[i] != old[i] {
			errs = append(errs, field.Forbidden(path, msg))
		}
	}
	return errs
}

func validateAddresses(addresses []corev1.NodeAddress, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[corev1.NodeAddress]bool, len(addresses))
	for i, a := range addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
		seen[a] = true
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	type identity struct {
		effect corev1.TaintEffect
		key    string
	}
	var errs field.ErrorList
	seen := make(map[identity]bool, len(taints))
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(msgs, ";")))
		}
		switch t.Effect {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		case "":
			errs = append(errs, field.Required(at.Child("effect"), ""))
		default:
			errs = append(errs, field.NotSupported(at.Child("effect"), t.Effect, []corev1.TaintEffect{
				corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}))
		}
		if id := (identity{t.Effect, t.Key}); seen[id] {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, twice)
		} else {
			seen[id] = true
		}
	}
	return errs
}

// validateAnnotations checks the JSON that two old annotations hold.
func validateAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := annotations[taintsAnnotation]; s != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(s), &taints); err != nil {
			errs = append(errs, field.Invalid(path, taintsAnnotation, err.Error()))
		} else {
			errs = append(errs, validateTaints(taints, path.Child(taintsAnnotation))...)
		}
	}
	if s := annotations[avoidPodsAnnotation]; s != "" {
		var avoid corev1.AvoidPods
		if err := json.Unmarshal([]byte(s), &avoid); err != nil {
			return append(errs, field.Invalid(path.Child("AvoidPods"), avoidPodsAnnotation, err.Error()))
		}
		for i, entry := range avoid.PreferAvoidPods {
			at := path.Child(avoidPodsAnnotation).Index(i).Child("PodSignature")
			owner := entry.PodSignature.PodController
			if owner == nil {
				errs = append(errs, field.Required(at, ""))
			} else if owner.Controller == nil || !*owner.Controller {
				errs = append(errs, field.Invalid(at.Child("PodController", "Controller"), false,
					"must be true"))
			}
		}
	}
	return errs
}

// validateFeatures takes a sorted list of distinct feature names.
func validateFeatures(features []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range features {
		at := path.Index(i)
		if len(name) > validation.DNS1123SubdomainMaxLength {
			errs = append(errs, field.Invalid(at, name, fmt.Sprintf(
				"invalid feature name %q: must be no more than %d characters", name, validation.DNS1123SubdomainMaxLength)))
		} else if !featureName.MatchString(name) {
			errs = append(errs, field.Invalid(at, name, fmt.Sprintf("invalid feature name %q: must start with an "+
				"UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or "+
				"MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name)))
		}
		if i == 0 {
			continue
		}
		switch previous := features[i-1]; {
		case previous == name:
			errs = append(errs, field.Duplicate(at, name))
		case previous > name:
			errs = append(errs, field.Invalid(at, name, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// validateConfigSource checks a kubelet configuration reference; a status names the very revision, a spec must not.
func validateConfigSource(source *corev1.NodeConfigSource, inStatus bool, path *field.Path) field.ErrorList {
	ref := source.ConfigMap
	if ref == nil {
		return field.ErrorList{field.Invalid(path, source, "exactly one reference subfield must be non-nil")}
	}
	var errs field.ErrorList
	path = path.Child("configMap")
	revision := func(name, value string) {
		switch {
		case inStatus && value == "":
			errs = append(errs, field.Required(path.Child(name), ""))
		case !inStatus && value != "":
			errs = append(errs, field.Forbidden(path.Child(name), name+" must not be set in spec"))
		}
	}
	named := func(name, value string, check func(string) []string) {
		if value == "" {
			errs = append(errs, field.Required(path.Child(name), ""))
			return
		}
		for _, msg := range check(value) {
			errs = append(errs, field.Invalid(path.Child(name), value, msg))
		}
	}
	revision("uid", string(ref.UID))
	revision("resourceVersion", ref.ResourceVersion)
	named("namespace", ref.Namespace, func(s string) []string { return apivalidation.NameIsDNSLabel(s, false) })
	named("name", ref.Name, func(s string) []string { return apivalidation.NameIsDNSSubdomain(s, false) })
	named("kubeletConfigKey", ref.KubeletConfigKey, validation.IsConfigMapKey)
	return errs
}
