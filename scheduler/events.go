package scheduler

import (
	"context"

	eventsv1 "k8s.io/api/events/v1"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"
)

// tells is how many events are written at once.
const tells = 16

// sink writes events, some at a time: those of a burst of Pods, which come all at once, neither crowd out what others ask of the
// API server nor are refused by it and lost.
type sink struct {
	to    events.EventSink
	slots chan struct{}
}

var _ events.EventSink = (*sink)(nil)

// NewSink returns where the scheduler's events are to be recorded.
func NewSink(client eventsclient.EventsV1Interface) events.EventSink {
	return &sink{to: &events.EventSinkImpl{Interface: client}, slots: make(chan struct{}, tells)}
}

func (s *sink) Create(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	return s.to.Create(ctx, e)
}

func (s *sink) Update(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	return s.to.Update(ctx, e)
}

func (s *sink) Patch(ctx context.Context, old *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	return s.to.Patch(ctx, old, data)
}

// begin waits for its turn, or until ctx ends.
func (s *sink) begin(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sink) end() { <-s.slots }
