package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// hookTimeout bounds an HTTP hook that its context does not.
const hookTimeout = 5 * time.Minute

// Run runs a lifecycle handler; it implements pod.Hooks.
func (c *Checker) Run(ctx context.Context, pod *v1.Pod, podIP string, container *v1.Container, containerID string, h *v1.LifecycleHandler) error {
	t := &target{pod: pod, podIP: podIP, container: container, containerID: containerID}
	switch {
	case h.Exec != nil:
		stdout, stderr, err := c.Runtime.ExecSync(ctx, containerID, h.Exec.Command, 0)
		if err != nil {
			out := append(stdout, stderr...)
			return fmt.Errorf("command '%s' exited with %w: %s", strings.Join(h.Exec.Command, " "), err, out[:min(len(out), maxBody)])
		}
		return nil
	case h.HTTPGet != nil:
		return httpHook(ctx, t, h.HTTPGet)
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("container terminated before sleep hook finished: %w", ctx.Err())
		}
	case h.TCPSocket != nil:
		return errors.New("tcpSocket is not supported as a lifecycle handler")
	}
	return fmt.Errorf("invalid handler: %v", h)
}

// httpHook asks, and takes any answer: what status it has means nothing to Kubernetes.
func httpHook(ctx context.Context, t *target, h *v1.HTTPGetAction) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	req, err := request(ctx, t, h, "kube-lifecycle/1.37")
	if err != nil {
		return err
	}
	resp, err := client("").Do(req)
	if errors.Is(err, http.ErrSchemeMismatch) {
		// Kubernetes falls back too: hooks ignored the scheme once.
		plain := req.Clone(ctx)
		plain.URL = &url.URL{Scheme: "http", Host: req.URL.Host, Path: req.URL.Path, RawQuery: req.URL.RawQuery}
		plain.Header.Del("Authorization")
		resp, err = client("").Do(plain)
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
