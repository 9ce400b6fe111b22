package inprocess

import (
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// negotiator decodes what the server sends, and takes the events of a shared watch as they are.
type negotiator struct {
	runtime.ClientNegotiator
	// view is what the client sees of an object; nil: all of it.
	view func(runtime.Object) (runtime.Object, error)
}

// StreamDecoder implements runtime.ClientNegotiator.
func (n negotiator) StreamDecoder(contentType string, params map[string]string) (runtime.Decoder, runtime.Serializer, runtime.Framer, error) {
	if contentType != sharedType {
		return n.ClientNegotiator.StreamDecoder(contentType, params)
	}
	s := &stream{view: n.view}
	return s, s, s, nil
}

// stream is a shared watch as client-go reads one: it reads a frame, has it decoded to an event, and the event's content to an
// object. A frame here is empty, and the event is beside it.
type stream struct {
	view  func(runtime.Object) (runtime.Object, error)
	body  sharedBody
	event watch.Event
}

// NewFrameReader implements runtime.Framer.
func (s *stream) NewFrameReader(r io.ReadCloser) io.ReadCloser {
	body, ok := r.(sharedBody)
	if !ok {
		return r // its Read says what is wrong
	}
	s.body = body
	return s
}

// NewFrameWriter implements runtime.Framer: nothing is sent this way.
func (s *stream) NewFrameWriter(io.Writer) io.Writer { return nil }

// Read waits for the next event.
func (s *stream) Read([]byte) (int, error) {
	e, ok := <-s.body.offer.source.ResultChan()
	if !ok {
		return 0, io.EOF
	}
	if shared, ok := e.Object.(runtime.CacheableObject); ok {
		e.Object = shared.GetObject() // a watch cache's wrapping of an object that it sends to many
	}
	s.event = e
	return 0, nil
}

// Close ends the watch, and so a Read that waits.
func (s *stream) Close() error { return s.body.Close() }

// Decode implements runtime.Decoder for the two of which client-go makes an event.
func (s *stream) Decode(_ []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if e, ok := into.(*metav1.WatchEvent); ok {
		e.Type = string(s.event.Type)
		return e, nil, nil
	}
	obj := s.event.Object
	s.event = watch.Event{}
	if s.view == nil {
		return obj, nil, nil
	}
	obj, err := s.view(obj)
	return obj, nil, err
}

// Encode implements runtime.Encoder: nothing is sent this way.
func (s *stream) Encode(runtime.Object, io.Writer) error {
	return errors.New("encode for a shared watch: it is read only")
}

// Identifier implements runtime.Encoder.
func (s *stream) Identifier() runtime.Identifier { return sharedType }

// metadataOf is the view of a client for metadata.
func metadataOf(obj runtime.Object) (runtime.Object, error) {
	if status, ok := obj.(*metav1.Status); ok {
		return status, nil
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("take the metadata of a %T: %w", obj, err)
	}
	return meta.AsPartialObjectMetadata(m), nil
}
