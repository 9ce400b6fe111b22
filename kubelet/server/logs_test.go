package server

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"github.com/peapod/peapod/kubelet/critest"
)

func TestLogs(t *testing.T) {
	r := newRig(t, map[string][]string{"admin": {"*"}})
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"c", 200, "c one\nc two\nc three\n"},
		{"old", 200, "old one\nold two\nold three\n"},
		{"old?previous=true", 200, "old/previous one\nold/previous two\nold/previous three\n"},
		{"c?tailLines=1", 200, "c three\n"},
		{"c?tailLines=0", 200, ""},
		{"c?limitBytes=5", 200, "c one"},
		{"c?timestamps=true&tailLines=1", 200, "2026-01-02T03:04:07.000000000Z c three\n"},
		{"c?sinceTime=2026-01-02T03:04:06Z", 200, "c two\nc three\n"},
		{"c?sinceSeconds=1", 200, ""},
		{"c?stream=Stdout", 200, "c one\nc three\n"},
		{"c?stream=Stderr", 200, "c two\n"},
		{"c?stream=All", 200, "c one\nc two\nc three\n"},
		{"old?follow=true", 200, "old one\nold two\nold three\n"}, // it has ended
		{"c?previous=true", 400, "previous terminated container \"c\" in pod \"p\" not found\n"},
		{"w", 400, "container \"w\" in pod \"p\" is waiting to start: ContainerCreating\n"},
		{"none", 404, "container \"none\" not found in pod \"p\"\n"},
		{"c?tailLines=-1", 400, ""}, {"c?tailLines=x", 400, ""}, {"c?limitBytes=0", 400, ""}, {"c?sinceSeconds=0", 400, ""},
		{"c?sinceSeconds=1&sinceTime=2026-01-02T03:04:06Z", 400, ""}, {"c?sinceTime=yesterday", 400, ""}, {"c?follow=perhaps", 400, ""},
		{"c?stream=stdin", 400, ""}, {"c?stream=Stdout&tailLines=1", 400, ""},
	} {
		code, body := r.do(t, "GET", "/containerLogs/ns/p/"+c.path, "admin")
		if code != c.code || (c.want != "" || code == 200) && body != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.want)
		}
	}
	if code, _ := r.do(t, "GET", "/containerLogs/ns/other/c", "admin"); code != 404 {
		t.Errorf("a pod that is not here: %d", code)
	}
}

// TestFollowedLogHasNoEnd where the server ends first: the connection ends with it, so that nobody believes the log to be over.
func TestFollowedLogHasNoEnd(t *testing.T) {
	r := newRig(t, nil)
	over, end := context.WithCancel(t.Context())
	end()
	q := httptest.NewRequest("GET", "/containerLogs/ns/p/c?follow=true&tailLines=1", nil).WithContext(over)
	for name, value := range map[string]string{"namespace": "ns", "pod": "p", "container": "c"} {
		q.SetPathValue(name, value)
	}
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("it ends with %v", got)
		}
	}()
	r.server.logs(httptest.NewRecorder(), q)
}

// TestFollow: lines arrive as they are written, and the stream ends with the
// container.
func TestFollow(t *testing.T) {
	r := newRig(t, map[string][]string{"admin": {"*"}})
	q, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/containerLogs/ns/p/c?follow=true&tailLines=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer admin")
	resp, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		if !lines.Scan() {
			return ""
		}
		return lines.Text()
	}
	if l := next(); l != "c three" {
		t.Fatalf("first line %q", l)
	}
	status, err := r.runtime.ContainerStatus(t.Context(), r.ids["c"], false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(status.Status.LogPath, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("2026-01-02T03:04:08.000000000Z stdout F c four\n"); err != nil {
		t.Fatal(err)
	}
	if l := next(); l != "c four" {
		t.Fatalf("next line %q", l)
	}
	if err := r.runtime.Exit("c", 0, "Completed"); err != nil {
		t.Fatal(err)
	}
	if l := next(); l != "" || lines.Err() != nil {
		t.Errorf("after the end: %q, %v", l, lines.Err())
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		t.Error("logs are text")
	}
}

// rotating is a runtime whose container ends, just as the reader asks whether it runs, after its log was rotated.
type rotating struct {
	*critest.Runtime
	rotate func()
}

func (r *rotating) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	if r.rotate != nil {
		r.rotate()
		r.rotate = nil
	}
	return r.Runtime.ContainerStatus(ctx, id, verbose)
}

// What a container writes between the rotation of its log and its end reaches whoever follows.
func TestFollowToTheEndOfARotatedLog(t *testing.T) {
	r := newRig(t, nil)
	id := r.ids["c"]
	status, err := r.runtime.ContainerStatus(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	path := status.Status.LogPath
	runtime := &rotating{Runtime: r.runtime, rotate: func() {
		err := errors.Join(os.Rename(path, path+".20260102-030405"),
			os.WriteFile(path, []byte("2026-01-02T03:04:09.000000000Z stdout F the last line\n"), 0o600),
			r.runtime.Exit("c", 0, "Completed"))
		if err != nil {
			t.Error(err)
		}
	}}
	got := httptest.NewRecorder()
	out := &flusher{w: got}
	if err := logs.ReadLogs(t.Context(), path, id, &logs.LogOptions{Follow: true}, follow(runtime, path, out), out, out); err != nil {
		t.Fatal(err)
	}
	if got := got.Body.String(); got != "c one\nc two\nc three\nthe last line\n" {
		t.Errorf("followed %q", got)
	}
}
