package snapshot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"

	"github.com/peapod/peapod/runtime/snapshot"
)

// layers makes a snapshotter with two layers, of which the upper one is named "top".
func layers(t *testing.T) snapshots.Snapshotter {
	t.Helper()
	sn, err := overlay.NewSnapshotter(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, sn.Close()) })
	parent := ""
	for _, name := range []string{"bottom", "top"} {
		mounts, err := sn.Prepare(t.Context(), "making "+name, parent)
		must(t, err)
		dir := mounts[0].Source
		for _, option := range mounts[0].Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				dir = upper
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
		must(t, os.Chmod(dir, 0o750))
		must(t, os.Chown(dir, 7, 8))
		must(t, sn.Commit(t.Context(), name, "making "+name))
		parent = name
	}
	return sn
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string, sn snapshots.Snapshotter) *snapshot.Snapshots {
	t.Helper()
	s, err := snapshot.Open(snapshot.Config{Dir: dir, Layers: sn, Namespace: "test", Released: func() {}})
	must(t, err)
	return s
}

func mount(t *testing.T, mounts []snapshot.Mount) string {
	t.Helper()
	root := t.TempDir()
	must(t, snapshot.MountAt(mounts, root))
	t.Cleanup(func() { must(t, snapshot.UnmountAt(root)) })
	return root
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestContainers(t *testing.T) {
	sn, dir := layers(t), t.TempDir()
	s := open(t, dir, sn)
	ctx := t.Context()
	one, err := s.Prepare(ctx, "one", "top", nil)
	must(t, err)
	two, err := s.Prepare(ctx, "two/..", "top", nil)
	must(t, err)
	rootOne, rootTwo := mount(t, one), mount(t, two)
	must(t, os.WriteFile(filepath.Join(rootOne, "mine"), []byte("x"), 0o600))
	must(t, os.Remove(filepath.Join(rootOne, "bottom")))
	if got := names(t, rootOne); !slices.Equal(got, []string{"mine", "top"}) {
		t.Errorf("one has %v", got)
	}
	if got := names(t, rootTwo); !slices.Equal(got, []string{"bottom", "top"}) {
		t.Errorf("two has %v", got)
	}
	info, err := os.Stat(rootOne)
	must(t, err)
	if info.Mode().Perm() != 0o750 {
		t.Errorf("the root has mode %v", info.Mode())
	}

	// A view of the image is read-only, and an image without layers an empty directory.
	view, err := s.View(ctx, "view", "top")
	must(t, err)
	if err := os.WriteFile(filepath.Join(mount(t, view), "x"), nil, 0o600); err == nil {
		t.Error("a view can be written to")
	}
	empty, err := s.Prepare(ctx, "empty", "", nil)
	must(t, err)
	if got := names(t, mount(t, empty)); len(got) != 0 {
		t.Errorf("an image without layers has %v", got)
	}

	// Another process finds them as they are, and no garbage collection takes their layers.
	s = open(t, dir, sn)
	must(t, s.CollectGarbage(ctx))
	again, err := s.Prepare(ctx, "one", "no such layers", nil)
	must(t, err)
	if !slices.Equal(again[0].Options, one[0].Options) {
		t.Errorf("after a restart the mounts are %v, before %v", again, one)
	}
	ids, err := s.List(ctx)
	must(t, err)
	slices.Sort(ids)
	if !slices.Equal(ids, []string{"empty", "one", "two/..", "view"}) {
		t.Errorf("there are %q", ids)
	}
	if _, err := s.Prepare(ctx, "three", "no such layers", nil); err == nil {
		t.Error("prepared over layers that are not there")
	}
}

func TestRemoval(t *testing.T) {
	sn, dir := layers(t), t.TempDir()
	s := open(t, dir, sn)
	ctx := t.Context()
	for _, id := range []string{"one", "two"} {
		_, err := s.Prepare(ctx, id, "top", nil)
		must(t, err)
	}
	must(t, s.Remove(ctx, "one"))
	must(t, s.Remove(ctx, "one"))
	must(t, s.CollectGarbage(ctx))
	if _, err := s.Mounts(ctx, "one"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the removed one: %v", err)
	}
	if err := sn.Remove(ctx, "top"); err == nil {
		t.Error("layers in use can be removed")
	}
	must(t, s.Remove(ctx, "two"))
	must(t, s.CollectGarbage(ctx))
	must(t, sn.Remove(ctx, "top"))
	for _, sub := range []string{"containers", "trash"} {
		if left := names(t, filepath.Join(dir, sub)); len(left) != 0 {
			t.Errorf("left in %s: %v", sub, left)
		}
	}
	for _, id := range []string{"", ".", "..", strings.Repeat("x", 300)} {
		if _, err := s.Prepare(ctx, id, "", nil); err == nil {
			t.Errorf("prepared %q", id)
		}
	}
}

// TestInterrupted: what a killed Prepare left is made anew, or removed.
func TestInterrupted(t *testing.T) {
	sn, dir := layers(t), t.TempDir()
	for _, id := range []string{"again", "given up"} {
		part := filepath.Join(dir, "containers", strings.ReplaceAll(id, " ", "%20"))
		must(t, os.MkdirAll(filepath.Join(part, "fs"), 0o700))
		must(t, os.WriteFile(filepath.Join(part, "chain.new"), []byte("to"), 0o600))
	}
	s := open(t, dir, sn)
	ctx := context.Background()
	mounts, err := s.Prepare(ctx, "again", "top", nil)
	must(t, err)
	if got := names(t, mount(t, mounts)); !slices.Equal(got, []string{"bottom", "top"}) {
		t.Errorf("it has %v", got)
	}
	must(t, s.Remove(ctx, "given up"))
	ids, err := s.List(ctx)
	must(t, err)
	if !slices.Equal(ids, []string{"again"}) {
		t.Errorf("there are %q", ids)
	}
}
