package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// minGrace is what a container gets to end by itself however late it is.
const minGrace = 2 * time.Second

// do runs one action to its end. It is idempotent: what an earlier run,
// perhaps of an earlier process, did already is found done.
func (w *worker) do(ctx context.Context, pod *v1.Pod, snapshot *Snapshot, a Action) (*Refusal, error) {
	switch a.Kind {
	case AskAdmission:
		return w.admit(ctx, pod)
	case PrepareVolumes:
		return nil, w.prepareVolumes(ctx, pod)
	case CreateSandbox:
		return nil, w.createSandbox(ctx, pod, a.Attempt)
	case StopSandbox:
		return nil, w.m.cfg.Runtime.StopPodSandbox(ctx, a.ID)
	case StartContainer:
		err := w.startContainer(ctx, pod, snapshot, a)
		w.countStart(ctx, pod, a.Container, err)
		return nil, err
	case StopContainer:
		return nil, w.stopContainer(ctx, pod, snapshot, a)
	case ResizePod:
		return nil, w.resizePod(ctx, pod, snapshot, a.Generation)
	case AnnounceRestart:
		return nil, w.m.cfg.Status.Tried(ctx, pod)
	case RemoveContainer:
		return nil, w.removeContainer(ctx, snapshot, a.ID)
	case Release:
		return nil, w.release(ctx, pod, snapshot)
	case RemoveAll:
		return nil, w.removeAll(ctx, pod, snapshot)
	}
	return nil, fmt.Errorf("run action %s: not known", a.Kind)
}

// admit asks the node, and records what the Pod gets. Devices come first, as in
// upstream: for a Pod that cannot have them nobody is preempted. One that is
// refused after that gives them back when it ends, which is at once.
func (w *worker) admit(ctx context.Context, pod *v1.Pod) (*Refusal, error) {
	if w.m.cfg.Plugins != nil {
		if refusal, err := w.m.cfg.Plugins.Allocate(ctx, pod, w.m.ceded); refusal != nil || err != nil {
			return refusal, err
		}
	}
	if refusal, err := w.askAdmission(ctx, pod); refusal != nil || err != nil {
		return refusal, err
	}
	return nil, w.recordAdmission(pod)
}

// askAdmission asks for one Pod at a time; the answer counts at once, so that
// the next Pod finds the room taken. Those that come meanwhile wait for Pods
// that have to end for this one.
func (w *worker) askAdmission(ctx context.Context, pod *v1.Pod) (*Refusal, error) {
	w.m.admission.Lock()
	defer w.m.admission.Unlock()
	refusal := w.m.cfg.Admitter.Admit(ctx, pod, w.m.others(w.uid))
	if refusal != nil && len(refusal.Preempt) > 0 {
		if err := w.m.preempt(ctx, pod, refusal.Preempt); err != nil {
			return nil, err
		}
		for range refusal.Preempt {
			w.m.cfg.Metrics.Preempted(strings.TrimPrefix(refusal.Reason, "OutOf"))
		}
		refusal = nil
	}
	w.mu.Lock()
	w.holds = refusal == nil
	w.mu.Unlock()
	return refusal, nil
}

func (w *worker) prepareVolumes(ctx context.Context, pod *v1.Pod) error {
	err := w.m.cfg.Volumes.Prepare(ctx, pod)
	var again *RetryError
	if err != nil && ctx.Err() == nil && !(errors.As(err, &again) && again.Quiet) {
		w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "FailedMount", Message: err.Error()})
	}
	return err
}

// Dir is where the kubelet keeps its own files of a Pod.
func Dir(root string, uid types.UID) string { return filepath.Join(root, "pods", string(uid)) }

func (w *worker) createSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	if err := w.m.cfg.Devices.Prepare(ctx, pod); err != nil {
		if ctx.Err() == nil {
			w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "FailedPrepareDynamicResources", Message: fmt.Sprintf("Failed to prepare dynamic resources: %v", err)})
		}
		return err
	}
	err := w.tryCreateSandbox(ctx, pod, attempt)
	w.m.cfg.Metrics.SandboxStarted(pod, err)
	if err != nil && ctx.Err() == nil {
		w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "FailedCreatePodSandBox", Message: fmt.Sprintf("Failed to create pod sandbox: %v", err)})
	}
	return err
}

func (w *worker) tryCreateSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	node, err := w.m.cfg.Node()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(Dir(w.m.cfg.RootDir, w.uid), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := os.MkdirAll(criconfig.PodLogDir(w.m.cfg.LogDir, pod), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	if err := w.m.cfg.Cgroups.Ensure(pod); err != nil {
		return err
	}
	handler := ""
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		var err error
		if handler, err = w.m.cfg.RuntimeHandler(ctx, *class); err != nil {
			return err
		}
	}
	users, err := w.m.cfg.UserNS.Of(ctx, pod, handler)
	if err != nil {
		return err
	}
	cfg, warnings, err := criconfig.Sandbox(pod, attempt, node, w.m.cfg.Cgroups.PodPath(pod), users)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: warning.Reason, Message: warning.Message})
	}
	_, err = w.m.cfg.Runtime.RunPodSandbox(ctx, cfg, handler)
	return err
}

// stopContainer runs the preStop hook and then ends the container, both
// within the grace.
func (w *worker) stopContainer(ctx context.Context, pod *v1.Pod, snapshot *Snapshot, a Action) error {
	c := FindContainer(pod, a.Container)
	if a.PreStop && c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		hookCtx, cancel := context.WithTimeout(ctx, a.By.Sub(w.m.cfg.Clock.Now()))
		err := w.m.cfg.Hooks.Run(hookCtx, pod, firstIP(snapshot), c, a.ID, c.Lifecycle.PreStop)
		cancel()
		if err != nil && ctx.Err() == nil {
			// Without the error's text: it can hold what a server answered.
			w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "FailedPreStopHook", Container: a.Container, Message: "PreStopHook failed"})
			w.m.log(ctx, pod).Info("PreStop hook failed", "container", a.Container, "err", err)
		}
	}
	grace := max(a.By.Sub(w.m.cfg.Clock.Now()), minGrace)
	// Whole seconds, rounded up: CRI counts so, and never shorter than asked.
	return w.m.cfg.Runtime.StopContainer(ctx, a.ID, int64((grace+time.Second-1)/time.Second))
}

func firstIP(s *Snapshot) string {
	if sb := s.Sandbox(); sb != nil && len(sb.IPs) > 0 {
		return sb.IPs[0]
	}
	return ""
}

// removeContainer forgets a dead instance and its logs.
func (w *worker) removeContainer(ctx context.Context, snapshot *Snapshot, id string) error {
	if err := w.m.cfg.Runtime.RemoveContainer(ctx, id); err != nil {
		return err
	}
	for i := range snapshot.Containers {
		if c := &snapshot.Containers[i]; c.ID == id && c.LogPath != "" {
			return removeLogs(c.LogPath)
		}
	}
	return nil
}

// removeLogs removes a log file and what rotation made of it.
func removeLogs(path string) error {
	rotated, err := filepath.Glob(path + ".*")
	if err != nil {
		return fmt.Errorf("list rotated logs of %s: %w", path, err)
	}
	var errs []error
	for _, p := range append(rotated, path) {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// release gives back what the node lent: sandbox, devices, volumes, IDs, cgroups,
// in this order, because each is used by the one before.
func (w *worker) release(ctx context.Context, pod *v1.Pod, snapshot *Snapshot) error {
	var errs []error
	for i := range snapshot.Sandboxes {
		errs = append(errs, w.m.cfg.Runtime.StopPodSandbox(ctx, snapshot.Sandboxes[i].ID))
	}
	if err := errors.Join(errs...); err != nil {
		w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: "FailedKillPod", Message: fmt.Sprintf("error killing pod: %v", err)})
		return err
	}
	if w.m.cfg.Network != nil {
		w.m.cfg.Network.Release(pod.Namespace, pod.Name, w.uid)
	}
	if err := w.m.cfg.Devices.Release(ctx, w.uid); err != nil {
		return err
	}
	if w.m.cfg.Plugins != nil {
		if err := w.m.cfg.Plugins.Release(w.uid); err != nil {
			return err
		}
	}
	if err := w.m.cfg.Volumes.Teardown(ctx, w.uid); err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	if err := w.m.cfg.UserNS.Release(w.uid); err != nil {
		return err
	}
	return w.m.cfg.Cgroups.Remove(ctx, w.uid)
}

// removeAll deletes what is left once nobody can ask for it any more.
func (w *worker) removeAll(ctx context.Context, pod *v1.Pod, snapshot *Snapshot) error {
	var errs []error
	for i := range snapshot.Containers {
		errs = append(errs, w.m.cfg.Runtime.RemoveContainer(ctx, snapshot.Containers[i].ID))
	}
	for i := range snapshot.Sandboxes {
		errs = append(errs, w.m.cfg.Runtime.RemovePodSandbox(ctx, snapshot.Sandboxes[i].ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if pod.Name != "" {
		if err := os.RemoveAll(criconfig.PodLogDir(w.m.cfg.LogDir, pod)); err != nil {
			return fmt.Errorf("remove logs: %w", err)
		}
	}
	if err := w.m.allocations.Remove(w.uid); err != nil {
		return err
	}
	dir := Dir(w.m.cfg.RootDir, w.uid)
	// Only what the kubelet itself made: a volume that is still mounted there,
	// however it came about, must not be emptied.
	for _, own := range []string{"containers", "etc-hosts"} {
		if err := os.RemoveAll(filepath.Join(dir, own)); err != nil {
			return fmt.Errorf("remove pod files: %w", err)
		}
	}
	for _, d := range []string{filepath.Join(dir, "volumes"), dir} {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove pod directory: %w", err)
		}
	}
	return nil
}

// startError is why a container did not start, as its status shows it.
type startError struct {
	Reason, Message string
	Image           string // that could not be had, if that is why
	Retry           time.Time
	err             error
}

func (e *startError) Error() string { return e.Reason + ": " + e.Message }
func (e *startError) Unwrap() error { return e.err }

// text is an error's message without what gRPC puts around it.
func text(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
