// Package workload holds what the kinds that keep a number of Pods have in common: how their template and selector must
// fit, what a share of their Pods may be, and how the containers of a template are printed. Messages equal those of
// Kubernetes v1.37.
package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Unmatched is what is said of a template whose Pods the selector beside it does not choose.
const Unmatched = "`selector` does not match template `labels`"

// Selector checks a selector that must be given and choose something; empty is the message where it chooses all. The
// selector that is returned is nil if there is none that can be used.
func Selector(s *metav1.LabelSelector, empty string, path *field.Path) (labels.Selector, field.ErrorList) {
	var errs field.ErrorList
	if s == nil {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, v.LabelSelector(s, false, path)...)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(path, s, empty))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, append(errs, field.Invalid(path, s, "invalid label selector"))
	}
	return selector, errs
}

// Matches checks that the template's labels are among what selector chooses. nil and empty selectors pass.
func Matches(t *corev1.PodTemplateSpec, selector labels.Selector, path *field.Path) field.ErrorList {
	if selector == nil || selector.Empty() || selector.Matches(labels.Set(t.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), t.Labels, Unmatched)}
}

// RunsForEver checks that the Pods of the template are restarted whatever happens, and have no deadline. kind is named in
// the message.
func RunsForEver(t *corev1.PodTemplateSpec, kind string, path *field.Path) field.ErrorList {
	spec := path.Child("spec")
	var errs field.ErrorList
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// Share checks a number of Pods or a percentage of them; nil passes.
func Share(share *intstr.IntOrString, path *field.Path) field.ErrorList {
	if share == nil {
		return nil
	}
	if share.Type == intstr.String {
		return v.Messages(validation.IsValidPercent(share.StrVal), *share, path)
	}
	return v.NonNegativeInteger(int64(share.IntVal), path)
}

// NotMoreThanAll checks that a share that is a percentage is at most 100; nil passes.
func NotMoreThanAll(share *intstr.IntOrString, path *field.Path) field.ErrorList {
	if share == nil || share.Type != intstr.String || value(share) <= 100 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *share, "must not be greater than 100%")}
}

// IsZero says whether a share is none of the Pods, whatever their number.
func IsZero(share *intstr.IntOrString) bool { return share == nil || value(share) == 0 }

// value is the number, or the percentage, or zero where it is neither.
func value(share *intstr.IntOrString) int {
	if share.Type == intstr.Int {
		return int(share.IntVal)
	}
	if len(validation.IsValidPercent(share.StrVal)) > 0 {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSuffix(share.StrVal, "%"))
	if err != nil { // More digits than an int has: more than all.
		return 101
	}
	return n
}

// Count is one of the numbers in a status.
type Count struct {
	Name  string
	Value int64
}

// Counts checks that each of the numbers is zero or more.
func Counts(path *field.Path, counts ...Count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, v.NonNegativeInteger(c.Value, path.Child(c.Name))...)
	}
	return errs
}

// AtMost checks that none of the numbers is greater than limit, which msg names.
func AtMost(limit int32, msg string, path *field.Path, counts ...Count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		if c.Value > int64(limit) {
			errs = append(errs, field.Invalid(path.Child(c.Name), c.Value, msg))
		}
	}
	return errs
}

// Collisions checks the count of hash collisions, which does not go down.
func Collisions(count, old *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := int32(0)
	if count != nil {
		n = *count
		errs = v.NonNegativeInteger(int64(n), path)
	}
	if old != nil && n < *old {
		errs = append(errs, field.Invalid(path, n, "cannot be decremented"))
	}
	return errs
}

// NonNegative checks an optional number.
func NonNegative(n *int32, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return v.NonNegativeInteger(int64(*n), path)
}

// NameWarnings warns of a name of which the names of Pods are made, and which is no name for a host.
func NameWarnings(name string) []string {
	msgs := validation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
}

// TemplateWarnings warns of what is hardly meant in the template at path.
func TemplateWarnings(t *corev1.PodTemplateSpec, path *field.Path) []string {
	return podspec.Warnings(&t.ObjectMeta, &t.Spec, path)
}

// ContainerColumns are the two columns, for -o wide, of Containers.
func ContainerColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Wide(table.Text("Containers", "Names of each container in the template.")),
		table.Wide(table.Text("Images", "Images referenced by each container in the template.")),
	}
}

// Containers are the names and the images of the template's containers, one cell each.
func Containers(t *corev1.PodTemplateSpec) (names, images string) {
	var n, i []string
	for _, c := range t.Spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// Columns joins lists of columns.
func Columns(lists ...[]metav1.TableColumnDefinition) []metav1.TableColumnDefinition {
	return slices.Concat(lists...)
}

// Replicas is the number that is asked for, with the default filled in.
func Replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// Scale is what a scale subresource says of Pods that a label selector chooses.
func Scale(replicas *int32, current int32, s *metav1.LabelSelector) (int32, int32, string, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return 0, 0, "", fmt.Errorf("convert label selector: %w", err)
	}
	return Replicas(replicas), current, selector.String(), nil
}
