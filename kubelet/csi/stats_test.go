package csi

import (
	"context"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// A driver is asked once a minute, at the side: while it does not answer, what it said before is told.
func TestVolumesAreMeasured(t *testing.T) {
	w := start(t, noAttach(nil))
	p := user("p")
	if s := w.csi.Stats(t.Context(), p.UID, "v1"); s != nil {
		t.Errorf("measured before it is there: %+v", s)
	}
	v := persistent(p)
	if _, err := w.setUp(v); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 10)
	w.intercept(func(_ context.Context, r any) error {
		if _, ok := r.(*csi.NodeGetVolumeStatsRequest); ok {
			asked <- struct{}{}
		}
		return nil
	})
	name := v.Persistent.Name
	var first uint64
	w.until("measured", func() bool {
		s := w.csi.Stats(t.Context(), p.UID, name)
		if s != nil {
			first = *s.CapacityBytes
		}
		return s != nil && s.AvailableBytes != nil && s.UsedBytes != nil && s.Time.Time.Equal(w.clock.Now())
	})
	if first == 0 || len(asked) != 1 {
		t.Errorf("capacity %d after %d calls", first, len(asked))
	}
	<-asked
	call := func() chan struct{} {
		w.csi.mu.Lock()
		defer w.csi.mu.Unlock()
		return w.csi.mounts[mountKey{p.UID, name}].measured.done
	}
	last := call()
	w.clock.Step(statsAge - 1)
	w.csi.Stats(t.Context(), p.UID, name)
	if call() != last {
		t.Error("asked again within a minute")
	}
	answer := make(chan struct{})
	w.intercept(func(_ context.Context, r any) error {
		if _, ok := r.(*csi.NodeGetVolumeStatsRequest); ok {
			asked <- struct{}{}
			<-answer
		}
		return nil
	})
	began := w.clock.Now().Add(1 - statsAge)
	w.clock.Step(1)
	for range 3 {
		if s := w.csi.Stats(t.Context(), p.UID, name); s == nil || !s.Time.Time.Equal(began) {
			t.Errorf("while the driver does not answer: %+v", s)
		}
	}
	<-asked
	close(answer)
	w.until("measured again", func() bool {
		s := w.csi.Stats(t.Context(), p.UID, name)
		return s != nil && s.Time.Time.After(began)
	})
	if len(asked) != 0 {
		t.Errorf("asked %d times more", len(asked))
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return len(mountsBelow(t, w.root)) == 0 })
	if s := w.csi.Stats(t.Context(), p.UID, name); s != nil {
		t.Errorf("measured after it has gone: %+v", s)
	}
}
