package server

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-client/pkg/logs"
)

// logs streams a container's log from its CRI log file.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	options, previous, stream, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, r, err)
		return
	}
	p, err := s.pod(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	container := r.PathValue("container")
	if !hasContainer(p, container) {
		fail(w, r, notFound("container %q not found in pod %q", container, p.Name))
		return
	}
	id, err := s.cfg.Pods.ContainerID(r.Context(), p.UID, container, previous)
	if err != nil {
		fail(w, r, err)
		return
	}
	status, err := s.cfg.Runtime.ContainerStatus(r.Context(), id, false)
	if err != nil {
		fail(w, r, fmt.Errorf("failed to get container status %q: %w", id, err))
		return
	}
	path := status.GetStatus().GetLogPath()
	if path == "" {
		fail(w, r, badRequest("container %q in pod %q has no log file", container, p.Name))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &flusher{w: w}
	stdout, stderr := io.Writer(out), io.Writer(out)
	switch stream {
	case v1.LogStreamStdout:
		stderr = io.Discard
	case v1.LogStreamStderr:
		stdout = io.Discard
	}
	runtime := s.cfg.Runtime
	if options.Follow {
		runtime = follow(runtime, path, out)
	}
	err = logs.ReadLogs(r.Context(), path, id, options, runtime, stdout, stderr)
	switch {
	case err == nil:
	case out.writes > 0, r.Context().Err() != nil:
		// The status has been sent, or this server ends: the connection ends too, so that the client does not take this for the log's end.
		panic(http.ErrAbortHandler)
	default:
		fail(w, r, fmt.Errorf("read log of container %q in pod %q: %w", container, p.Name, err))
	}
}

// flusher sends each write at once.
type flusher struct {
	w      http.ResponseWriter
	writes int
}

func (f *flusher) Write(b []byte) (int, error) {
	f.writes++
	n, err := f.w.Write(b)
	if flush, ok := f.w.(http.Flusher); ok && err == nil {
		flush.Flush()
	}
	return n, err
}

// logOptions parses the query of a log request. Errors name the parameter.
func logOptions(q url.Values, now time.Time) (o *logs.LogOptions, previous bool, stream string, err error) {
	o = &logs.LogOptions{}
	flag := func(name string) bool {
		v := q.Get(name)
		if v == "" || err != nil {
			return false
		}
		b, parseErr := strconv.ParseBool(v)
		if parseErr != nil {
			err = badRequest("invalid value %q of %s: must be true or false", v, name)
		}
		return b
	}
	number := func(name string, least int64) *int64 {
		v := q.Get(name)
		if v == "" || err != nil {
			return nil
		}
		n, parseErr := strconv.ParseInt(v, 10, 64)
		if parseErr != nil || n < least {
			err = badRequest("invalid value %q of %s: must be a number of at least %d", v, name, least)
			return nil
		}
		return &n
	}
	o.Follow, o.Timestamp, previous = flag("follow"), flag("timestamps"), flag("previous")
	o.TailLines, o.LimitBytes = number("tailLines", 0), number("limitBytes", 1)
	if seconds := number("sinceSeconds", 1); seconds != nil {
		o.Since = now.Add(-time.Duration(*seconds) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			err = badRequest("invalid value %q of sinceTime: must be a time such as 2026-01-02T15:04:05Z", v)
		}
	}
	stream = q.Get("stream")
	switch stream {
	case "", v1.LogStreamAll, v1.LogStreamStdout, v1.LogStreamStderr:
	default:
		err = badRequest("invalid value %q of stream: must be All, Stdout or Stderr", stream)
	}
	switch {
	case err != nil:
	case q.Get("sinceTime") != "" && q.Get("sinceSeconds") != "":
		err = badRequest("at most one of sinceTime and sinceSeconds may be given")
	case o.TailLines != nil && (stream == v1.LogStreamStdout || stream == v1.LogStreamStderr):
		err = badRequest("tailLines and a specific stream are mutually exclusive")
	}
	return o, previous, stream, err
}

// pod finds the Pod that the path names.
func (s *Server) pod(r *http.Request) (*v1.Pod, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	p, ok := s.cfg.Pods.Pod(namespace, name)
	if !ok {
		return nil, notFound("pod %q not found in namespace %q", name, namespace)
	}
	return p, nil
}

func hasContainer(p *v1.Pod, name string) bool {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return true
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}
