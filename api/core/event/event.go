// Package event declares core/v1 Event. events.k8s.io/v1 Event is another version of the same objects (see package
// api/events/event) and stricter in what it takes.
package event

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// ttl is how long an Event is kept, in seconds.
const ttl = 60 * 60

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Event](resource.Declaration{
		GVK:            corev1.SchemeGroupVersion.WithKind("Event"),
		Plural:         "events",
		ShortNames:     []string{"ev"},
		Namespaced:     true,
		CreateOnUpdate: true, // the Event may have expired since its recorder saw it
	}, func() runtime.Object { return &corev1.EventList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*corev1.Event]       = kind{}
	_ resource.UpdateValidator[*corev1.Event] = kind{}
	_ resource.NameValidator                  = kind{}
	_ resource.Selectable[*corev1.Event]      = kind{}
	_ resource.Printer[*corev1.Event]         = kind{}
	_ resource.Expiring[*corev1.Event]        = kind{}
	_ resource.GarbageCollected               = kind{}
)

// TTL is the same for every Event.
func (kind) TTL(*corev1.Event) uint64 { return ttl }

// DefaultGarbageCollectionPolicy says that Events own nothing.
func (kind) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return rest.Unsupported
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *corev1.Event) fields.Set {
	source := obj.Source.Component
	if source == "" {
		source = obj.ReportingController
	}
	about := &obj.InvolvedObject
	return fields.Set{
		"involvedObject.kind":            about.Kind,
		"involvedObject.namespace":       about.Namespace,
		"involvedObject.name":            about.Name,
		"involvedObject.uid":             string(about.UID),
		"involvedObject.apiVersion":      about.APIVersion,
		"involvedObject.resourceVersion": about.ResourceVersion,
		"involvedObject.fieldPath":       about.FieldPath,
		"reason":                         obj.Reason,
		"reportingComponent":             obj.ReportingController,
		"source":                         source,
		"type":                           obj.Type,
	}
}

// Columns are those of `kubectl get events`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := table.Name()
	name.Format = "name"
	return []metav1.TableColumnDefinition{
		table.Text("Last Seen", doc["lastTimestamp"]),
		table.Text("Type", doc["type"]),
		table.Text("Reason", doc["reason"]),
		table.Text("Object", doc["involvedObject"]),
		table.Wide(table.Text("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"])),
		table.Wide(table.Text("Source", doc["source"])),
		table.Text("Message", doc["message"]),
		table.Wide(table.Text("First Seen", doc["firstTimestamp"])),
		table.Wide(table.Text("Count", doc["count"])),
		table.Wide(name),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Event) ([]any, error) {
	first := table.Since(obj.FirstTimestamp)
	if obj.FirstTimestamp.IsZero() {
		first = table.SinceMicro(obj.EventTime)
	}
	last := table.Since(obj.LastTimestamp)
	if obj.LastTimestamp.IsZero() {
		last = first
	}
	count := obj.Count
	if obj.Series != nil {
		last, count = table.SinceMicro(obj.Series.LastObservedTime), obj.Series.Count
	} else if count == 0 {
		count = 1 // An Event of the new style that happened once has no count.
	}
	target := strings.ToLower(obj.InvolvedObject.Kind)
	if obj.InvolvedObject.Name != "" {
		target += "/" + obj.InvolvedObject.Name
	}
	return []any{
		last, obj.Type, obj.Reason, target, obj.InvolvedObject.FieldPath, sourceOf(obj),
		strings.TrimSpace(obj.Message), first, int64(count), obj.Name,
	}, nil
}

func sourceOf(obj *corev1.Event) string {
	component, instance := obj.Source.Component, obj.Source.Host
	if component == "" {
		component = obj.ReportingController
	}
	if instance == "" {
		instance = obj.ReportingInstance
	}
	if instance == "" {
		return component
	}
	return fmt.Sprintf("%s, %s", component, instance)
}
