package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/pod"
)

// exec runs a command in a container.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id, err := s.running(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	command := q[v1.ExecCommandParam]
	if len(command) == 0 {
		fail(w, r, badRequest("you must specify at least 1 command to execute"))
		return
	}
	request := &runtimeapi.ExecRequest{ContainerId: id, Cmd: command, Tty: on(q, v1.ExecTTYParam),
		Stdin: on(q, v1.ExecStdinParam), Stdout: on(q, v1.ExecStdoutParam), Stderr: on(q, v1.ExecStderrParam)}
	if !request.Stdin && !request.Stdout && !request.Stderr {
		fail(w, r, badRequest("you must specify at least 1 of stdin, stdout, stderr"))
		return
	}
	// A terminal has one output.
	request.Stderr = request.Stderr && !request.Tty
	response, err := s.cfg.Runtime.Exec(r.Context(), request)
	if err != nil {
		fail(w, r, fmt.Errorf("exec in container %q: %w", r.PathValue("container"), err))
		return
	}
	s.stream(w, r, response.GetUrl())
}

// attach connects to a container's first process.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id, err := s.running(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	request := &runtimeapi.AttachRequest{ContainerId: id, Tty: on(q, v1.ExecTTYParam),
		Stdin: on(q, v1.ExecStdinParam), Stdout: on(q, v1.ExecStdoutParam), Stderr: on(q, v1.ExecStderrParam)}
	request.Stderr = request.Stderr && !request.Tty
	response, err := s.cfg.Runtime.Attach(r.Context(), request)
	if err != nil {
		fail(w, r, fmt.Errorf("attach to container %q: %w", r.PathValue("container"), err))
		return
	}
	s.stream(w, r, response.GetUrl())
}

// portForward connects to ports in a Pod's network. Which ones, each stream of the connection says; a WebSocket of the old
// protocol names them in the query.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	p, err := s.pod(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	sandbox, ok := s.cfg.Pods.SandboxID(r.Context(), p.UID)
	if !ok {
		fail(w, r, notFound("pod %q has no sandbox yet", p.Name))
		return
	}
	request := &runtimeapi.PortForwardRequest{PodSandboxId: sandbox}
	for _, list := range r.URL.Query()["port"] {
		for _, text := range strings.Split(list, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				fail(w, r, badRequest("invalid value %q of port: must be between 1 and 65535", text))
				return
			}
			request.Port = append(request.Port, int32(port))
		}
	}
	response, err := s.cfg.Runtime.PortForward(r.Context(), request)
	if err != nil {
		fail(w, r, fmt.Errorf("forward to pod %q: %w", p.Name, err))
		return
	}
	s.stream(w, r, response.GetUrl())
}

// running returns the CRI ID of the container that the path names. One that has ended or has not begun is not found, as
// in Kubernetes.
func (s *Server) running(r *http.Request) (string, error) {
	p, err := s.pod(r)
	if err != nil {
		return "", err
	}
	container := r.PathValue("container")
	if !hasContainer(p, container) {
		return "", notFound("container not found (%q)", container)
	}
	id, err := s.cfg.Pods.ContainerID(r.Context(), p.UID, container, false)
	var missing *pod.NoContainerError
	switch {
	case errors.As(err, &missing):
		return "", notFound("container not found (%q)", container)
	case err != nil:
		return "", err
	}
	status, err := s.cfg.Runtime.ContainerStatus(r.Context(), id, false)
	if err != nil {
		return "", fmt.Errorf("find the state of container %q: %w", container, err)
	}
	if status.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return "", notFound("container not found (%q)", container)
	}
	return id, nil
}

func on(q url.Values, name string) bool { return q.Get(name) == "1" || q.Get(name) == "true" }

// stream hands the connection to whoever serves the URL that the runtime has returned for it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, location string) {
	u, err := url.Parse(location)
	if err != nil {
		fail(w, r, fmt.Errorf("parse the runtime's stream URL: %w", err))
		return
	}
	if s.cfg.Streams != nil {
		r2 := r.Clone(r.Context())
		r2.URL.Path, r2.URL.RawPath, r2.URL.RawQuery, r2.RequestURI = u.Path, u.RawPath, u.RawQuery, u.RequestURI()
		s.cfg.Streams.ServeHTTP(w, r2)
		return
	}
	handler := proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
	handler.UseLocationHost = true
	handler.ServeHTTP(w, r)
}

// responder answers where the runtime's stream server cannot be reached.
type responder struct{}

func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	klog.FromContext(r.Context()).Error(err, "Proxy to the runtime's stream server failed", "path", r.URL.Path)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
