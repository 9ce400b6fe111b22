package event

import (
	"context"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// Longest texts, in bytes, of Events with an eventTime.
const (
	instanceMax = 128
	actionMax   = 128
	reasonMax   = 128
	messageMax  = 1024
)

// ValidateName takes any path segment: core/v1 clients name Events freely. The stricter rule of events.k8s.io is in
// Validate.
func (kind) ValidateName(name string, prefix bool) []string {
	return path.ValidatePathSegmentName(name, prefix)
}

// viaCore says whether the request came through core/v1, which takes more than events.k8s.io does.
func viaCore(ctx context.Context) bool {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	return ok && (schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}) == corev1.SchemeGroupVersion
}

// Validate checks a new Event.
func (kind) Validate(ctx context.Context, obj *corev1.Event) field.ErrorList {
	core := viaCore(ctx)
	errs := validateAny(obj, core)
	if core {
		return errs
	}
	for _, msg := range apivalidation.NameIsDNSSubdomain(obj.Name, false) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.Name, msg))
	}
	errs = append(errs, validateSeries(obj.Series)...)
	if obj.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if obj.Type != corev1.EventTypeNormal && obj.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", obj.Type)))
	}
	unset := func(name string, set bool) {
		if set {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	unset("firstTimestamp", !obj.FirstTimestamp.IsZero())
	unset("lastTimestamp", !obj.LastTimestamp.IsZero())
	unset("count", obj.Count != 0)
	unset("source", obj.Source != corev1.EventSource{})
	return errs
}

// ValidateUpdate lets only the series change through events.k8s.io.
func (kind) ValidateUpdate(ctx context.Context, obj, old *corev1.Event) field.ErrorList {
	core := viaCore(ctx)
	errs := validateAny(obj, core)
	if core {
		return errs
	}
	if !reflect.DeepEqual(obj.Series, old.Series) {
		errs = append(errs, validateSeries(obj.Series)...)
	}
	fixed := func(name string, value, before any) {
		errs = append(errs, apivalidation.ValidateImmutableField(value, before, field.NewPath(name))...)
	}
	fixed("involvedObject", obj.InvolvedObject, old.InvolvedObject)
	fixed("reason", obj.Reason, old.Reason)
	fixed("message", obj.Message, old.Message)
	fixed("source", obj.Source, old.Source)
	fixed("firstTimestamp", obj.FirstTimestamp, old.FirstTimestamp)
	fixed("lastTimestamp", obj.LastTimestamp, old.LastTimestamp)
	fixed("count", obj.Count, old.Count)
	fixed("type", obj.Type, old.Type)
	// Clients may cut the time to the microseconds that the wire keeps.
	if !obj.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		fixed("eventTime", obj.EventTime, old.EventTime)
	}
	fixed("action", obj.Action, old.Action)
	fixed("related", obj.Related, old.Related)
	fixed("reportingController", obj.ReportingController, old.ReportingController)
	fixed("reportingInstance", obj.ReportingInstance, old.ReportingInstance)
	return errs
}

func validateSeries(series *corev1.EventSeries) field.ErrorList {
	var errs field.ErrorList
	if series == nil {
		return nil
	}
	if series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// validateAny checks what holds in both versions: an Event lives in the namespace of what it is about, and one with an
// eventTime says who reports it.
func validateAny(obj *corev1.Event, core bool) field.ErrorList {
	var errs field.ErrorList
	if about := obj.InvolvedObject.Namespace; !inItsNamespace(obj) {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), about,
			"does not match event.namespace"))
	}
	if !obj.EventTime.IsZero() {
		errs = append(errs, validateReport(obj, core)...)
	}
	for _, msg := range validation.IsDNS1123Subdomain(obj.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("namespace"), obj.Namespace, msg))
	}
	return errs
}

func inItsNamespace(obj *corev1.Event) bool {
	about := obj.InvolvedObject.Namespace
	switch {
	case obj.EventTime.IsZero() && about == "":
		return obj.Namespace == metav1.NamespaceNone || obj.Namespace == metav1.NamespaceDefault
	case obj.EventTime.IsZero():
		return obj.Namespace == about
	case about == "":
		return obj.Namespace == metav1.NamespaceDefault || obj.Namespace == metav1.NamespaceSystem
	}
	return true
}

func validateReport(obj *corev1.Event, core bool) field.ErrorList {
	var errs field.ErrorList
	controller := field.NewPath("reportingController")
	if core {
		controller = field.NewPath("reportingComponent")
	}
	if obj.ReportingController == "" {
		errs = append(errs, field.Required(controller, ""))
	}
	for _, msg := range validation.IsQualifiedName(obj.ReportingController) {
		errs = append(errs, field.Invalid(controller, obj.ReportingController, msg))
	}
	text := func(name, value string, limit int, required bool) {
		if required && value == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
		if len(value) > limit {
			errs = append(errs, field.Invalid(field.NewPath(name), "",
				fmt.Sprintf("can have at most %v characters", limit)))
		}
	}
	text("reportingInstance", obj.ReportingInstance, instanceMax, true)
	text("action", obj.Action, actionMax, true)
	text("reason", obj.Reason, reasonMax, true)
	text("message", obj.Message, messageMax, false)
	return errs
}
