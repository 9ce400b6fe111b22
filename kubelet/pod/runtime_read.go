package pod

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// refresh reads all that the runtime has of the Pod.
func (w *worker) refresh(ctx context.Context) error {
	uid := map[string]string{criconfig.LabelPodUID: string(w.uid)}
	rt := w.m.cfg.Runtime
	sandboxes, err := rt.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: uid})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := rt.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: uid})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	next := Snapshot{}
	for _, s := range sandboxes {
		next.Sandboxes = append(next.Sandboxes, Sandbox{
			ID: s.Id, Attempt: s.Metadata.GetAttempt(), CreatedAt: time.Unix(0, s.CreatedAt),
			Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		})
	}
	for _, c := range containers {
		read, err := w.readContainer(ctx, c)
		if err != nil {
			return err
		}
		next.Containers = append(next.Containers, read)
	}
	next.sort()
	if w.own { // nobody else remembers when it began
		for i := range next.Sandboxes {
			w.startTime = minTime(w.startTime, next.Sandboxes[i].CreatedAt)
		}
	}
	if sb := next.Sandbox(); sb != nil && sb.Ready {
		if err := w.readSandbox(ctx, sb); err != nil {
			return err
		}
	}
	w.snapshot = next
	maps.DeleteFunc(w.again, func(id string, _ bool) bool {
		return !slices.ContainsFunc(next.Containers, func(c Container) bool { return c.ID == id })
	})
	w.m.own(w.uid, &next)
	return nil
}

func (m *Manager) own(uid types.UID, s *Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range s.Sandboxes {
		m.owner[s.Sandboxes[i].ID] = uid
	}
	for i := range s.Containers {
		m.owner[s.Containers[i].ID] = uid
	}
}

// readSandbox adds the addresses, which do not change: they are kept.
func (w *worker) readSandbox(ctx context.Context, sb *Sandbox) error {
	if old := w.snapshot.Sandbox(); old != nil && old.ID == sb.ID && len(old.IPs) > 0 {
		sb.IPs = old.IPs
		return nil
	}
	resp, err := w.m.cfg.Runtime.PodSandboxStatus(ctx, sb.ID, false)
	if err != nil {
		return fmt.Errorf("read sandbox %s: %w", sb.ID, err)
	}
	sb.Ready = resp.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY
	if ip := resp.Status.GetNetwork().GetIp(); ip != "" {
		sb.IPs = append(sb.IPs, ip)
	}
	for _, ip := range resp.Status.GetNetwork().GetAdditionalIps() {
		sb.IPs = append(sb.IPs, ip.Ip)
	}
	return nil
}

func (w *worker) readContainer(ctx context.Context, c *runtimeapi.Container) (Container, error) {
	if known, ok := w.exited[c.Id]; ok {
		return known, nil
	}
	resp, err := w.m.cfg.Runtime.ContainerStatus(ctx, c.Id, false)
	if err != nil {
		return Container{}, fmt.Errorf("read container %s: %w", c.Id, err)
	}
	s := resp.Status
	out := Container{
		ID: c.Id, SandboxID: c.PodSandboxId, Name: s.Labels[criconfig.LabelContainerName], State: s.State,
		Hash: s.Annotations[criconfig.AnnotationHash], CreatedAt: time.Unix(0, s.CreatedAt),
		Image: s.GetImage().GetImage(), ImageID: s.ImageRef, LogPath: s.LogPath,
		Reason: s.Reason, Message: s.Message, ExitCode: s.ExitCode,
	}
	if out.Name == "" {
		out.Name = s.GetMetadata().GetName()
	}
	if user := s.GetImage().GetUserSpecifiedImage(); user != "" {
		out.Image = user
	}
	if n, err := strconv.ParseInt(s.Annotations[criconfig.AnnotationRestartCount], 10, 32); err == nil {
		out.RestartCount = int32(n)
	} else {
		out.RestartCount = int32(s.GetMetadata().GetAttempt())
	}
	if n, err := strconv.ParseInt(s.Annotations[criconfig.AnnotationRound], 10, 32); err == nil {
		out.Round = int32(n)
	}
	// What never started, started at the epoch: as Kubernetes shows it.
	out.StartedAt, out.FinishedAt = time.Unix(0, s.StartedAt), time.Unix(0, s.FinishedAt)
	if u := s.GetUser().GetLinux(); u != nil {
		out.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if s.StopSignal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		sig := v1.Signal(s.StopSignal.String()[len("SIGNAL_"):])
		out.StopSignal = &sig
	}
	if out.Exited() {
		w.mu.Lock()
		m, ok := told(w.pod, c.Id)
		w.mu.Unlock()
		if !ok {
			m = terminationMessage(s)
		}
		if m != "" {
			out.Message = m
		}
		w.exited[c.Id] = out
	}
	return out, nil
}
