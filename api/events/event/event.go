// Package event declares events.k8s.io/v1 Event, which is core/v1 Event in other words: one storage, two versions.
package event

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind; core is that of core/v1 Event, which stores the objects.
func Declaration(core *resource.Declaration) *resource.Declaration {
	return resource.Declare[eventsv1.Event](resource.Declaration{
		GVK:        eventsv1.SchemeGroupVersion.WithKind("Event"),
		Plural:     "events",
		ShortNames: []string{"ev"},
		Namespaced: true,
		AliasOf:    core,
		Convert:    register,
	}, func() runtime.Object { return &eventsv1.EventList{} }, struct{}{})
}

// register adds the conversions between the two versions, one by one and in lists, and the names that field selectors
// have here for the fields of core/v1.
func register(scheme *runtime.Scheme) error {
	for _, c := range []struct {
		from, to any
		convert  func(from, to any)
	}{
		{(*eventsv1.Event)(nil), (*corev1.Event)(nil), func(from, to any) {
			toCore(from.(*eventsv1.Event), to.(*corev1.Event))
		}},
		{(*corev1.Event)(nil), (*eventsv1.Event)(nil), func(from, to any) {
			fromCore(from.(*corev1.Event), to.(*eventsv1.Event))
		}},
		{(*eventsv1.EventList)(nil), (*corev1.EventList)(nil), func(from, to any) {
			in, out := from.(*eventsv1.EventList), to.(*corev1.EventList)
			out.ListMeta, out.Items = in.ListMeta, each(in.Items, toCore)
		}},
		{(*corev1.EventList)(nil), (*eventsv1.EventList)(nil), func(from, to any) {
			in, out := from.(*corev1.EventList), to.(*eventsv1.EventList)
			out.ListMeta, out.Items = in.ListMeta, each(in.Items, fromCore)
		}},
	} {
		err := scheme.AddConversionFunc(c.from, c.to, func(from, to any, _ conversion.Scope) error {
			c.convert(from, to)
			return nil
		})
		if err != nil {
			return fmt.Errorf("register conversion of %T to %T: %w", c.from, c.to, err)
		}
	}
	err := scheme.AddFieldLabelConversionFunc(eventsv1.SchemeGroupVersion.WithKind("Event"), selectable)
	if err != nil {
		return fmt.Errorf("register field labels of %T: %w", &eventsv1.Event{}, err)
	}
	return nil
}

func each[F, T any](from []F, convert func(*F, *T)) []T {
	if from == nil {
		return nil
	}
	to := make([]T, len(from))
	for i := range from {
		convert(&from[i], &to[i])
	}
	return to
}

// selectable translates a field selector's label to that of core/v1.
func selectable(label, value string) (string, string, error) {
	switch label {
	case "metadata.name", "metadata.namespace", "reason", "type":
		return label, value, nil
	case "regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
		"regarding.resourceVersion", "regarding.fieldPath":
		return "involvedObject" + label[len("regarding"):], value, nil
	case "reportingController":
		return "reportingComponent", value, nil
	}
	return "", "", fmt.Errorf("field label not supported: %s", label)
}

// toCore shares the parts of in with out.
func toCore(in *eventsv1.Event, out *corev1.Event) {
	*out = corev1.Event{
		ObjectMeta:          in.ObjectMeta,
		EventTime:           in.EventTime,
		Series:              (*corev1.EventSeries)(in.Series),
		ReportingController: in.ReportingController,
		ReportingInstance:   in.ReportingInstance,
		Action:              in.Action,
		Reason:              in.Reason,
		InvolvedObject:      in.Regarding,
		Related:             in.Related,
		Message:             in.Note,
		Type:                in.Type,
		Source:              in.DeprecatedSource,
		FirstTimestamp:      in.DeprecatedFirstTimestamp,
		LastTimestamp:       in.DeprecatedLastTimestamp,
		Count:               in.DeprecatedCount,
	}
}

// fromCore shares the parts of in with out.
func fromCore(in *corev1.Event, out *eventsv1.Event) {
	*out = eventsv1.Event{
		ObjectMeta:               in.ObjectMeta,
		EventTime:                in.EventTime,
		Series:                   (*eventsv1.EventSeries)(in.Series),
		ReportingController:      in.ReportingController,
		ReportingInstance:        in.ReportingInstance,
		Action:                   in.Action,
		Reason:                   in.Reason,
		Regarding:                in.InvolvedObject,
		Related:                  in.Related,
		Note:                     in.Message,
		Type:                     in.Type,
		DeprecatedSource:         in.Source,
		DeprecatedFirstTimestamp: in.FirstTimestamp,
		DeprecatedLastTimestamp:  in.LastTimestamp,
		DeprecatedCount:          in.Count,
	}
}
