package daemon

import (
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// eventRecorder records events of a controller. What does so is made at the first event: its two queues are 64 kB, and many controllers have
// nothing to say for days.
type eventRecorder struct {
	source v1.EventSource
	client typedcorev1.EventsGetter

	mu          sync.Mutex
	broadcaster record.EventBroadcaster // nil before the first event
	events      record.EventRecorder
	closed      bool
}

var _ record.EventRecorder = (*eventRecorder)(nil)

// newEventRecorder returns what records events of the component as the client's user.
func newEventRecorder(component string, client typedcorev1.EventsGetter) *eventRecorder {
	return &eventRecorder{source: v1.EventSource{Component: component}, client: client}
}

// record has the event recorded in the background. After Shutdown it does nothing. As nothing here blocks, it does not either.
func (r *eventRecorder) record(f func(record.EventRecorder)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if r.broadcaster == nil {
		r.broadcaster = record.NewBroadcaster()
		r.events = r.broadcaster.NewRecorder(scheme.Scheme, r.source)
		r.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: r.client.Events("")})
	}
	f(r.events)
}

// Event implements record.EventRecorder.
func (r *eventRecorder) Event(object runtime.Object, eventtype, reason, message string) {
	r.record(func(e record.EventRecorder) { e.Event(object, eventtype, reason, message) })
}

// Eventf implements record.EventRecorder.
func (r *eventRecorder) Eventf(object runtime.Object, eventtype, reason, messageFmt string, args ...any) {
	r.Event(object, eventtype, reason, fmt.Sprintf(messageFmt, args...))
}

// AnnotatedEventf implements record.EventRecorder.
func (r *eventRecorder) AnnotatedEventf(object runtime.Object, annotations map[string]string, eventtype, reason, messageFmt string, args ...any) {
	r.record(func(e record.EventRecorder) {
		e.AnnotatedEventf(object, annotations, eventtype, reason, messageFmt, args...)
	})
}

// Shutdown ends recording.
func (r *eventRecorder) Shutdown() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.broadcaster != nil {
		r.broadcaster.Shutdown()
	}
}
