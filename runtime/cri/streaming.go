package cri

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// newStreaming makes the handler of streams. It has no listener: whoever serves it authenticates and authorizes its clients.
func (s *Service) newStreaming() error {
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Path: s.cfg.StreamPrefix}
	server, err := streaming.NewServer(config, streamer{s})
	if err != nil {
		return fmt.Errorf("make stream handler: %w", err)
	}
	s.streaming = server
	return nil
}

// StreamHandler serves the paths that Exec, Attach and PortForward return, each once and within a minute.
func (s *Service) StreamHandler() http.Handler { return http.HandlerFunc(s.serveStream) }

// Exec prepares a stream to a command in a container; the URL is a path for StreamHandler.
func (s *Service) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := s.running(r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetExec(r)
}

// Attach prepares a stream to a container's own streams; the URL is a path for StreamHandler.
func (s *Service) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := s.running(r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetAttach(r)
}

// PortForward prepares streams to ports of a sandbox; the URL is a path for StreamHandler.
func (s *Service) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb.get().Phase != phaseReady {
		return nil, fmt.Errorf("sandbox container %q is not running", sb.id)
	}
	response, err := s.streaming.GetPortForward(r)
	if err != nil {
		return nil, err
	}
	s.forwards.add(path.Base(response.Url), sb.id)
	return response, nil
}
