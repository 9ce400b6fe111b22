package pod

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"
)

// Kinds of containers in metrics.
const (
	regularKind, initKind, ephemeralKind = "container", "init_container", "ephemeral_container"
)

// countStart counts a try to start a container, unless that was given up.
func (w *worker) countStart(ctx context.Context, pod *v1.Pod, container string, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	kind, code := regularKind, ""
	switch {
	case isInit(pod, container):
		kind = initKind
	case isEphemeral(pod, container):
		kind = ephemeralKind
	}
	var start *startError
	switch {
	case errors.As(err, &start):
		code = start.Reason
	case err != nil:
		code = "RunContainerError"
	}
	w.m.cfg.Metrics.ContainerStarted(kind, code)
}

// timeMove counts how long the Pod took to where it goes.
func (w *worker) timeMove(pod *v1.Pod, next State) {
	now := w.m.cfg.Clock.Now()
	switch {
	case next == Running && w.fresh:
		w.fresh = false
		w.m.cfg.Metrics.Synced("create", now.Sub(w.since))
		w.m.cfg.Metrics.PodRuns(now.Sub(w.since), now.Sub(pod.CreationTimestamp.Time))
	case next == Stopping:
		w.stopping = now
	case next == Finished && !w.stopping.IsZero():
		w.m.cfg.Metrics.Synced("terminated", now.Sub(w.stopping))
	}
}

// countEnds counts the containers that run no more since the last publish. What ended before the first one was counted by whoever
// saw it.
func (w *worker) countEnds(old, now *v1.PodStatus) {
	for kind, lists := range map[string][2][]v1.ContainerStatus{
		regularKind:   {old.ContainerStatuses, now.ContainerStatuses},
		initKind:      {old.InitContainerStatuses, now.InitContainerStatuses},
		ephemeralKind: {old.EphemeralContainerStatuses, now.EphemeralContainerStatuses},
	} {
		known := map[string]bool{}
		for i := range lists[0] {
			for _, end := range ends(&lists[0][i]) {
				known[end.ContainerID] = true
			}
		}
		for i := range lists[1] {
			for _, end := range ends(&lists[1][i]) {
				if end.ContainerID != "" && !known[end.ContainerID] {
					w.m.cfg.Metrics.ContainerEnded(kind, end)
				}
			}
		}
	}
}

// ends are the instances of a container that have ended, of those that its status names.
func ends(c *v1.ContainerStatus) (out []*v1.ContainerStateTerminated) {
	for _, s := range []*v1.ContainerState{&c.LastTerminationState, &c.State} {
		if s.Terminated != nil && (len(out) == 0 || out[0].ContainerID != s.Terminated.ContainerID) {
			out = append(out, s.Terminated)
		}
	}
	return out
}
