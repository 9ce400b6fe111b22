package cri

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errLagging ends the stream of a receiver that fell too far behind: it must list everything before it listens again.
var errLagging = errors.New("container events: the receiver fell behind")

// errShutdown ends the streams when the runtime does.
var errShutdown = errors.New("container events: the runtime shuts down")

// pendingEvents bounds what one receiver may lag behind.
const pendingEvents = 4096

// broadcaster hands events to every receiver, in order, without ever waiting for one.
type broadcaster struct {
	mu        sync.Mutex
	receivers map[*receiver]struct{}
	closed    bool
}

type receiver struct {
	events chan *runtimeapi.ContainerEventResponse
	end    chan error // one error, then nothing
}

func newBroadcaster() *broadcaster { return &broadcaster{receivers: map[*receiver]struct{}{}} }

func (b *broadcaster) subscribe() (*receiver, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errShutdown
	}
	r := &receiver{events: make(chan *runtimeapi.ContainerEventResponse, pendingEvents), end: make(chan error, 1)}
	b.receivers[r] = struct{}{}
	return r, nil
}

func (b *broadcaster) unsubscribe(r *receiver) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.receivers, r)
}

func (b *broadcaster) publish(event func() *runtimeapi.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.receivers) == 0 {
		return
	}
	e := event()
	for r := range b.receivers {
		select {
		case r.events <- proto.Clone(e).(*runtimeapi.ContainerEventResponse):
		default:
			delete(b.receivers, r)
			r.end <- errLagging
		}
	}
}

func (b *broadcaster) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for r := range b.receivers {
		delete(b.receivers, r)
		r.end <- errShutdown
	}
}

// GetContainerEvents sends every event to ch until ctx ends or the receiver falls behind. connected is called once events are collected;
// its argument is nil, as there is no connection.
func (s *Service) GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse, connected func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	r, err := s.events.subscribe()
	if err != nil {
		return err
	}
	defer s.events.unsubscribe(r)
	if connected != nil {
		connected(nil)
	}
	for {
		select {
		case e := <-r.events:
			select {
			case ch <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		case err := <-r.end:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish announces a change of a container, or of a sandbox if id is the sandbox's, with the state of the whole Pod.
func (s *Service) publish(kind runtimeapi.ContainerEventType, id, sandboxID string) {
	s.events.publish(func() *runtimeapi.ContainerEventResponse {
		e := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
		if sb, err := s.sandbox(sandboxID); err == nil {
			e.PodSandboxStatus = s.sandboxStatus(sb)
		}
		for _, c := range s.containersOf(sandboxID) {
			e.ContainersStatuses = append(e.ContainersStatuses, s.containerStatus(c))
		}
		return e
	})
}

// publishGone announces the removal of a sandbox, which is not in the list any more.
func (s *Service) publishGone(sb *sandbox) {
	s.events.publish(func() *runtimeapi.ContainerEventResponse {
		return &runtimeapi.ContainerEventResponse{
			ContainerId: sb.id, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
			CreatedAt: time.Now().UnixNano(), PodSandboxStatus: s.sandboxStatus(sb),
		}
	})
}
