package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/image"
)

// starter is one start of one container.
type starter struct {
	w        *worker
	pod      *v1.Pod
	c        *v1.Container
	snapshot *Snapshot
	node     *criconfig.Node
	users    *runtimeapi.UserNamespace
	count    int32
	round    int32
}

// startContainer pulls, configures, creates and starts one instance, and runs
// its postStart hook.
func (w *worker) startContainer(ctx context.Context, pod *v1.Pod, snapshot *Snapshot, a Action) error {
	c, sb := FindContainer(pod, a.Container), snapshot.Sandbox()
	if c == nil || sb == nil {
		return fmt.Errorf("start container %s: no such container, or no sandbox", a.Container)
	}
	node, err := w.m.cfg.Node()
	if err != nil {
		return err
	}
	s := &starter{w: w, pod: pod, c: c, snapshot: snapshot, node: node, count: a.RestartCount, round: a.Round}
	// The Pod has what its sandbox was given, whatever has become of its RuntimeClass.
	if s.users, err = w.m.cfg.UserNS.Of(ctx, pod, ""); err != nil {
		return err
	}
	sandbox, _, err := criconfig.Sandbox(pod, sb.Attempt, node, w.m.cfg.Cgroups.PodPath(pod), s.users)
	if err != nil {
		return err
	}
	img, err := s.image(ctx, c.Image, c.ImagePullPolicy, sandbox)
	if err != nil {
		return err
	}
	volumes, err := s.imageVolumes(ctx, sandbox)
	if err != nil {
		return err
	}
	cfg, err := s.config(ctx, img, volumes)
	if err != nil {
		return s.fail(ctx, "CreateContainerConfigError", err)
	}
	if err := s.admitted(ctx); err != nil {
		return s.fail(ctx, "CreateContainerError", err)
	}
	id, err := w.m.cfg.Runtime.CreateContainer(ctx, sb.ID, cfg, sandbox)
	if err != nil {
		return s.fail(ctx, "CreateContainerError", err)
	}
	s.note(v1.EventTypeNormal, "Created", "Container created")
	if err := w.m.cfg.Runtime.StartContainer(ctx, id); err != nil && !s.ran(ctx, id) {
		return s.notStarted(ctx, id, err)
	}
	s.note(v1.EventTypeNormal, "Started", "Container started")
	if err := w.recordStart(pod, c); err != nil {
		w.m.log(ctx, pod).Error(err, "Recording what a container was started with failed; it will be resized to the same", "container", c.Name)
	}
	return s.postStart(ctx, id)
}

// admitted waits until the network holds the Pod to what is laid down for it. On
// the host's network it is the host.
func (s *starter) admitted(ctx context.Context) error {
	if s.w.m.cfg.Network == nil || s.pod.Spec.HostNetwork {
		return nil
	}
	return s.w.m.cfg.Network.Admit(ctx, s.pod, s.snapshot.Sandbox().IPs)
}

// image has an image brought here.
func (s *starter) image(ctx context.Context, name string, policy v1.PullPolicy, sandbox *runtimeapi.PodSandboxConfig) (*image.Image, error) {
	img, err := s.w.m.cfg.Images.Ensure(ctx, s.pod, name, policy, sandbox, s.note)
	var e *image.Error
	if !errors.As(err, &e) {
		return img, err
	}
	if ctx.Err() == nil {
		s.note(v1.EventTypeWarning, "Failed", "Error: "+e.Reason)
	}
	return nil, &startError{Reason: e.Reason, Message: e.Message, Image: name, Retry: e.Retry, err: err}
}

// imageVolumes has the images of the volumes that the container mounts brought here; the result is by the reference that the
// volume has.
func (s *starter) imageVolumes(ctx context.Context, sandbox *runtimeapi.PodSandboxConfig) (map[string]*image.Image, error) {
	var out map[string]*image.Image
	for i := range s.pod.Spec.Volumes {
		v := &s.pod.Spec.Volumes[i]
		if v.Image == nil || !slices.ContainsFunc(s.c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		img, err := s.image(ctx, v.Image.Reference, v.Image.PullPolicy, sandbox)
		s.w.m.cfg.Metrics.ImageVolume(err)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]*image.Image{}
		}
		out[v.Image.Reference] = img
	}
	return out, nil
}

func (s *starter) note(kind, reason, message string) {
	s.w.m.note(s.pod, Note{Type: kind, Reason: reason, Message: message, Container: s.c.Name})
}

func (s *starter) fail(ctx context.Context, reason string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	s.note(v1.EventTypeWarning, "Failed", "Error: "+text(err))
	return &startError{Reason: reason, Message: text(err), err: err}
}

// ran says whether a container whose start was given up has run nonetheless: one that exits at once may end its Pod, and with that its start,
// before the start returns. One that the runtime killed since its start was given up began, as far as it tells, when it ended.
func (s *starter) ran(ctx context.Context, id string) bool {
	if ctx.Err() == nil {
		return false
	}
	st, err := s.w.m.cfg.Runtime.ContainerStatus(context.WithoutCancel(ctx), id, false)
	return err == nil && st.GetStatus().GetStartedAt() != 0 && st.GetStatus().GetStartedAt() != st.GetStatus().GetFinishedAt()
}

// notStarted tells of a container that could not be started. It counts as an
// instance that exited, so that the usual restart back-off follows; where a runtime
// leaves it as created, the next try waits as after any other failure.
func (s *starter) notStarted(ctx context.Context, id string, err error) error {
	failed := s.fail(ctx, "RunContainerError", err)
	var e *startError
	if errors.As(failed, &e) {
		if st, statusErr := s.w.m.cfg.Runtime.ContainerStatus(ctx, id, false); statusErr == nil &&
			st.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			e.Retry = s.w.m.cfg.Clock.Now()
		}
	}
	return failed
}

// postStart runs the hook; a container whose hook fails is ended.
func (s *starter) postStart(ctx context.Context, id string) error {
	if s.c.Lifecycle == nil || s.c.Lifecycle.PostStart == nil {
		return nil
	}
	s.w.update(func() { s.w.dirty = true }) // it runs: say so while the hook does
	err := s.w.m.cfg.Hooks.Run(ctx, s.pod, firstIP(s.snapshot), s.c, id, s.c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Without the error's text: it can hold what a server answered.
	s.note(v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	s.note(v1.EventTypeNormal, "Killing", "FailedPostStartHook")
	grace := int64(30)
	if g := s.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = max(*g, int64(minGrace.Seconds()))
	}
	if stopErr := s.w.m.cfg.Runtime.StopContainer(ctx, id, grace); stopErr != nil {
		return fmt.Errorf("stop container %s after its postStart hook failed: %w", s.c.Name, stopErr)
	}
	// Its exit is followed by the usual back-off, not by one of our own.
	return &startError{Reason: "PostStartHookError", Message: err.Error(), Retry: s.w.m.cfg.Clock.Now(), err: err}
}

func (s *starter) config(ctx context.Context, img *image.Image, volumes map[string]*image.Image) (*runtimeapi.ContainerConfig, error) {
	podIPs := s.snapshot.Sandbox().IPs
	if s.pod.Spec.HostNetwork {
		podIPs = s.node.HostIPs
	}
	env, err := criconfig.BuildEnv(ctx, &criconfig.EnvInput{
		Pod: s.pod, Container: s.c, PodIPs: podIPs, HostIPs: s.node.HostIPs,
		Allocatable: s.w.m.cfg.Allocatable(), Objects: s.w.m.cfg.Objects,
		File: func(volume, path string) ([]byte, error) { return s.w.m.cfg.Volumes.File(s.pod, volume, path) },
	})
	if err != nil {
		return nil, err
	}
	for _, skipped := range env.Skipped {
		s.note(v1.EventTypeWarning, "InvalidEnvironmentVariableNames", skipped)
	}
	given, err := s.given(ctx, env)
	if err != nil {
		return nil, err
	}
	mounts, err := s.w.m.cfg.Volumes.Mounts(ctx, s.pod, s.c, env.Map)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.Image != nil {
			m.Image.Image = volumes[m.Image.UserSpecifiedImage].Ref
		}
	}
	devices, err := s.w.m.cfg.Volumes.Devices(ctx, s.pod, s.c)
	if err != nil {
		return nil, err
	}
	claimed, err := s.w.m.cfg.Devices.Devices(s.pod, s.c)
	if err != nil {
		return nil, err
	}
	own, err := s.ownMounts(podIPs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(criconfig.PodLogDir(s.w.m.cfg.LogDir, s.pod), s.c.Name), 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	return criconfig.Container(&criconfig.ContainerInput{
		Pod: s.pod, Container: s.c, Hash: Hash(s.c), RestartCount: s.count, Round: s.round, ImageRef: img.Ref,
		ImageUser: criconfig.ImageUser{UID: img.UID, Name: img.User},
		Env:       env, Mounts: append(mounts, own...), Devices: devices, Claimed: claimed, Given: given, TargetID: s.target(), Users: s.users,
	}, s.node)
}

// given is what device plugins give to the container; their variables go into its environment.
func (s *starter) given(ctx context.Context, env *criconfig.Env) (*criconfig.Given, error) {
	if s.w.m.cfg.Plugins == nil {
		return nil, nil
	}
	given, err := s.w.m.cfg.Plugins.Given(ctx, s.pod, s.c)
	if given != nil {
		env.Under(given.Envs)
	}
	return given, err
}

// target is the container whose processes an ephemeral container wants to see.
func (s *starter) target() string {
	for i := range s.pod.Spec.EphemeralContainers {
		e := &s.pod.Spec.EphemeralContainers[i]
		if e.Name == s.c.Name && e.TargetContainerName != "" {
			if t := s.snapshot.active(e.TargetContainerName); t != nil {
				return t.ID
			}
		}
	}
	return ""
}

// ownMounts are the files that the kubelet itself gives to a container: its
// hosts file, unless a volume is mounted there, and a fresh message file.
func (s *starter) ownMounts(podIPs []string) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	dir := Dir(s.w.m.cfg.RootDir, s.pod.UID)
	if !mountsAt(s.c, "/etc/hosts") {
		path := filepath.Join(dir, "etc-hosts")
		if err := s.writeHosts(path, podIPs); err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if s.c.TerminationMessagePath == "" {
		return out, nil
	}
	own := filepath.Join(dir, "containers", s.c.Name)
	if err := os.MkdirAll(own, 0o750); err != nil {
		return nil, fmt.Errorf("make container directory: %w", err)
	}
	// One file an instance; of those before, the previous one's was read
	// when it ended.
	old, err := os.ReadDir(own)
	if err != nil {
		return nil, fmt.Errorf("list container directory: %w", err)
	}
	for _, e := range old {
		if s.used(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(own, e.Name())); err != nil {
			return nil, fmt.Errorf("remove old termination message: %w", err)
		}
	}
	random := make([]byte, 4)
	rand.Read(random)
	path := filepath.Join(own, fmt.Sprintf("%d-%s", s.count, hex.EncodeToString(random)))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return nil, fmt.Errorf("make termination message file: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // the container's user may be anyone
		return nil, fmt.Errorf("make termination message file: %w", err)
	}
	return append(out, &runtimeapi.Mount{ContainerPath: s.c.TerminationMessagePath, HostPath: path}), nil
}

// used says whether a message file belongs to the instance before this one:
// its status may be read again after a restart of this process.
func (s *starter) used(file string) bool {
	return s.count > 0 && strings.HasPrefix(file, fmt.Sprintf("%d-", s.count-1))
}

func mountsAt(c *v1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if filepath.Clean(m.MountPath) == path {
			return true
		}
	}
	return false
}

// writeHosts writes the Pod's hosts file in place: running containers have
// this very file mounted. It is not touched when it says the same already,
// because a container may have added lines.
func (s *starter) writeHosts(path string, podIPs []string) error {
	hostFile := ""
	if s.pod.Spec.HostNetwork {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read the node's hosts file: %w", err)
		}
		hostFile = string(data)
	}
	content, err := criconfig.HostsFile(s.pod, s.node, podIPs, hostFile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if old, err := readHead(path, int64(len(content))); err == nil && string(old) == content {
		return nil
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	return nil
}
