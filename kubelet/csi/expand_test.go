package csi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/kubelet/pod"
)

// expand has a volume made as large as said, waits until the driver has been at work, and returns what came of it.
func (w *world) expand(v Volume, bytes int64) error {
	w.t.Helper()
	changed := make(chan struct{}, 1)
	var quiet *pod.RetryError
	if err := w.csi.Expand(v, bytes, func() { changed <- struct{}{} }); !errors.As(err, &quiet) || !quiet.Quiet {
		w.t.Fatalf("error %v", err)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		w.t.Fatal("the driver is not done with it")
	}
	return w.csi.Expand(v, bytes, nil)
}

// A volume grows where the Pod has it; the Pod's worker does not wait for the driver.
func TestExpand(t *testing.T) {
	w := start(t, noAttach(nil), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: map[string][]byte{"k": []byte("v")}})
	requests := make(chan *csi.NodeExpandVolumeRequest, 10)
	w.intercept(func(_ context.Context, r any) error {
		if r, ok := r.(*csi.NodeExpandVolumeRequest); ok {
			requests <- r
		}
		return nil
	})
	v := persistent(user("p"))
	v.Persistent.Spec.CSI.NodeExpandSecretRef = &v1.SecretReference{Namespace: "ns", Name: "key"}
	if err := w.csi.Expand(v, 1, nil); err == nil {
		t.Error("a volume grows that is not mounted")
	}
	got, err := w.setUp(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.expand(v, 4096); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(got.Path, "size")); string(b) != "4096" {
		t.Errorf("size %q, %v", b, err)
	}
	r := <-requests
	if r.VolumeId != "h1" || r.Secrets["k"] != "v" || r.VolumeCapability.GetMount().GetFsType() != "ext4" ||
		!slices.Contains(mountsBelow(t, w.root), r.StagingTargetPath) || r.StagingTargetPath == r.VolumePath {
		t.Errorf("the driver is asked %v", r)
	}
	if err := w.csi.TearDown(t.Context(), v.Pod.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return len(mountsBelow(t, w.root)) == 0 })
}

// A driver that has nothing to do on the node when a volume grows is not asked to, and that is told from a failure.
func TestExpandWithoutDriver(t *testing.T) {
	w := start(t, noAttach(nil))
	w.end()
	w.lacks = []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_EXPAND_VOLUME}
	w.startDriver()
	w.intercept(func(_ context.Context, r any) error {
		if r, ok := r.(*csi.NodeExpandVolumeRequest); ok {
			t.Errorf("the driver is asked %v", r)
		}
		return nil
	})
	v := persistent(user("p"))
	if _, err := w.setUp(v); err != nil {
		t.Fatal(err)
	}
	if err := w.expand(v, 4096); !errors.Is(err, ErrExpansionNotSupported) {
		t.Errorf("error %v", err)
	}
	if err := w.csi.TearDown(t.Context(), v.Pod.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return len(mountsBelow(t, w.root)) == 0 })
}
