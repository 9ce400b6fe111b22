package logrotate

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/critest"
)

// one starts a container that logs below dir.
func one(t *testing.T, rt *critest.Runtime, dir string) string {
	t.Helper()
	sc := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u"}, LogDirectory: dir}
	sb, err := rt.RunPodSandbox(t.Context(), sc, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(t.Context(), sb, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{}, LogPath: "0.log",
	}, sc)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "0.log")
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestRotate(t *testing.T) {
	rt, dir := critest.New(), t.TempDir()
	path := one(t, rt, dir)
	r := New(Config{Runtime: rt, MaxSize: 100, MaxFiles: 3})
	write := func(p, text string) {
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, strings.Repeat("x", 99))
	if err := r.Rotate(t.Context()); err != nil || len(files(t, dir)) != 1 {
		t.Fatalf("a small log was rotated: %v, %v", files(t, dir), err)
	}
	// Two from before and a compression that was cut off.
	write(path+".20260101-000000.gz", "oldest")
	write(path+".20260101-000001", "plain")
	write(path+".20260101-000002.gz.tmp", "half")
	write(path, strings.Repeat("x", 100))
	if err := r.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := files(t, dir)
	if len(got) != 2 || got[0] != "0.log.20260101-000001.gz" || strings.HasSuffix(got[1], ".gz") {
		t.Fatalf("files %v", got)
	}
	f, err := os.Open(filepath.Join(dir, got[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(z); err != nil || string(data) != "plain" {
		t.Errorf("compressed log holds %q, %v", data, err)
	}
	if calls := rt.Calls(); calls[len(calls)-1] != "ReopenContainerLog c" {
		t.Errorf("calls %v", calls)
	}
	// A crash between rename and reopen: the next look reopens.
	before := len(rt.Calls())
	if err := r.Rotate(context.Background()); err != nil || len(rt.Calls()) != before+1 {
		t.Errorf("a missing log was not reopened: %v, %v", rt.Calls(), err)
	}
}

func TestReopenFails(t *testing.T) {
	rt, dir := critest.New(), t.TempDir()
	path := one(t, rt, dir)
	rt.Fail("ReopenContainerLog", errors.New("no"))
	if err := os.WriteFile(path, make([]byte, 200), 0o600); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Runtime: rt, MaxSize: 100, MaxFiles: 3})
	if err := r.Rotate(t.Context()); err == nil {
		t.Error("no error")
	}
	if got := files(t, dir); len(got) != 1 || got[0] != "0.log" {
		t.Errorf("files %v: the log must be where readers look", got)
	}
}
