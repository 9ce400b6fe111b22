// Package event declares events.k8s.io/v1 Event, which is core/v1 Event in other words: one storage, two versions.
package event

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
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
	err := errors.Join(
		resource.AddConversion(scheme, toCore),
		resource.AddConversion(scheme, fromCore),
		resource.AddConversion(scheme, func(in *eventsv1.EventList, out *corev1.EventList) (err error) {
			out.ListMeta = in.ListMeta
			out.Items, err = resource.ConvertEach(in.Items, toCore)
			return err
		}),
		resource.AddConversion(scheme, func(in *corev1.EventList, out *eventsv1.EventList) (err error) {
			out.ListMeta = in.ListMeta
			out.Items, err = resource.ConvertEach(in.Items, fromCore)
			return err
		}),
	)
	if err != nil {
		return err
	}
	err = scheme.AddFieldLabelConversionFunc(eventsv1.SchemeGroupVersion.WithKind("Event"), selectable)
	if err != nil {
		return fmt.Errorf("register field labels of %T: %w", &eventsv1.Event{}, err)
	}
	return nil
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
func toCore(in *eventsv1.Event, out *corev1.Event) error {
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
	return nil
}

// fromCore shares the parts of in with out.
func fromCore(in *corev1.Event, out *eventsv1.Event) error {
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
	return nil
}
