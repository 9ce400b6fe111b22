package pod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write("secret", "secret")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	log := write("log", "2026-01-01T00:00:00.000000001Z stdout F out\n2026-01-01T00:00:00.000000002Z stderr P half\n2026-01-01T00:00:00.000000003Z stderr F whole\n")
	for _, c := range []struct {
		name, file, policy string
		code               int32
		log, want          string
	}{
		{"said", write("said", "done"), "File", 0, log, "done"},
		{"long", write("long", "x"+strings.Repeat("y", 5000)), "File", 0, log, strings.Repeat("y", 4096)},
		{"silent", write("silent", ""), "File", 1, log, ""},
		{"fallback", write("silent", ""), "FallbackToLogsOnError", 1, log, "out\nhalfwhole\n"},
		{"succeeded", write("silent", ""), "FallbackToLogsOnError", 0, log, ""},
		{"gone", filepath.Join(dir, "gone"), "File", 1, log, ""},
		{"gone, fallback", filepath.Join(dir, "gone"), "FallbackToLogsOnError", 1, log, "out\nhalfwhole\n"},
	} {
		got := terminationMessage(&runtimeapi.ContainerStatus{
			ExitCode: c.code, LogPath: c.log, Mounts: []*runtimeapi.Mount{{ContainerPath: "/dev/termination-log", HostPath: c.file}},
			Annotations: map[string]string{criconfig.AnnotationMessagePath: "/dev/termination-log", criconfig.AnnotationMessagePolicy: c.policy},
		})
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for _, trap := range []string{link, pipe} {
		got := terminationMessage(&runtimeapi.ContainerStatus{
			Mounts:      []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: trap}},
			Annotations: map[string]string{criconfig.AnnotationMessagePath: "/m"},
		})
		if !strings.HasPrefix(got, "Error on reading termination log") {
			t.Errorf("%s: %q", trap, got)
		}
	}
}

func TestMessagesShare(t *testing.T) {
	s := &v1.PodStatus{}
	for range 6 {
		s.ContainerStatuses = append(s.ContainerStatuses, v1.ContainerStatus{State: v1.ContainerState{
			Terminated: &v1.ContainerStateTerminated{Message: strings.Repeat("x", 4096)},
		}})
	}
	shorten(s)
	if n := len(s.ContainerStatuses[5].State.Terminated.Message); n != 2048 {
		t.Errorf("message of %d bytes", n)
	}
}
