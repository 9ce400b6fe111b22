package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/oci"
)

// CreateContainer prepares a container: its file system is mounted and its specification is made. Nothing runs yet.
func (s *Service) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if config.GetMetadata() == nil {
		return "", status.Error(codes.InvalidArgument, "container config has no metadata")
	}
	sb, err := s.sandbox(sandboxID)
	if err != nil {
		return "", err
	}
	sb.op.RLock()
	defer sb.op.RUnlock()
	sandbox := sb.get()
	if sandbox.Phase != phaseReady {
		return "", status.Errorf(codes.FailedPrecondition, "sandbox container %q is not running", sandboxID)
	}
	if err := s.checkContainerUsers(&sandbox, config); err != nil {
		return "", err
	}
	img, err := s.cfg.Images.Resolve(ctx, config.GetImage().GetImage())
	if err != nil {
		return "", fmt.Errorf("resolve image %q: %w", config.GetImage().GetImage(), err)
	}
	e := containerEntry{
		ID: newID(), SandboxID: sandboxID, Phase: phaseCreating, CreatedAt: time.Now(), ImageID: img.ID, StopSignal: img.Config.StopSignal,
		ImageRef: img.DigestFor(imageSpec(config).Image),
		Config:   packed[*runtimeapi.ContainerConfig]{Message: proto.Clone(config).(*runtimeapi.ContainerConfig)},
	}
	e.Resources.Message = e.Config.Message.GetLinux().GetResources()
	if e.Resources.Message == nil {
		e.Resources.Message = &runtimeapi.LinuxContainerResources{}
	}
	if name := stopSignalName(config.StopSignal); name != "" {
		e.StopSignal = name
	}
	if err := s.resolveVolumes(ctx, &e); err != nil {
		return "", err
	}
	c := newContainer(e)
	if err := s.reserveContainer(c); err != nil {
		return "", err
	}
	if err := s.buildContainer(ctx, c, &sandbox, img); err != nil {
		if isHalt(err) {
			return "", err
		}
		if undoErr := s.eraseContainer(context.WithoutCancel(ctx), c); undoErr != nil {
			s.log.Error(undoErr, "Undo failed container", "container", c.id)
		}
		return "", fmt.Errorf("create container %q: %w", config.Metadata.Name, err)
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, c.id, sandboxID)
	return c.id, nil
}

// resolveVolumes finds the images that e mounts. Its configuration says from then on which they are.
func (s *Service) resolveVolumes(ctx context.Context, e *containerEntry) error {
	for i, m := range e.Config.Message.Mounts {
		name := m.GetImage().GetImage()
		if name == "" {
			continue
		}
		if !m.Readonly {
			return status.Errorf(codes.InvalidArgument, "image %q is mounted on %q: it must be read-only", name, m.ContainerPath)
		}
		img, err := s.cfg.Images.Resolve(ctx, name)
		if err != nil {
			return fmt.Errorf("resolve image %q of a volume: %w", name, err)
		}
		m.Image.ImageRef = img.ID
		e.Views = append(e.Views, fmt.Sprintf("%s-image-%d", e.ID, i))
	}
	return nil
}

// reserveContainer enters c, unless there is one for the same attempt of the same name in the sandbox.
func (s *Service) reserveContainer(c *container) error {
	meta := c.entry.Config.Message.Metadata
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.containers {
		o := other.get().Config.Message.Metadata
		if other.sandboxID == c.sandboxID && o.Name == meta.Name && o.Attempt == meta.Attempt {
			return status.Errorf(codes.AlreadyExists, "container %s_%d exists as %s", meta.Name, meta.Attempt, other.id)
		}
	}
	s.containers[c.id] = c
	return nil
}

// buildContainer does the steps of making a container. eraseContainer undoes them, whichever were done.
func (s *Service) buildContainer(ctx context.Context, c *container, sandbox *sandboxEntry, img *image.Image) error {
	e := c.get()
	if err := createJournal(s.containerFile(c.id), &e); err != nil {
		return err
	}
	if err := s.halt("container journal"); err != nil {
		return err
	}
	if err := s.mountRootfs(ctx, c.id, sandbox, img); err != nil {
		return err
	}
	if err := s.halt("container rootfs"); err != nil {
		return err
	}
	user, home, err := s.resolveUser(&e, img)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := sandbox.users().CheckUser(user); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	e.User = user
	spec, err := s.containerSpec(ctx, &e, sandbox, img, home)
	if err != nil {
		return err
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode container specification: %w", err)
	}
	if err := os.WriteFile(s.specPath(c.id), body, 0o600); err != nil {
		return fmt.Errorf("write container specification: %w", err)
	}
	if err := s.makeLogDir(&e, sandbox); err != nil {
		return err
	}
	_, err = s.changeContainer(c, func(entry *containerEntry) bool {
		entry.User, entry.Phase = user, phaseCreated
		return true
	})
	return err
}

func (s *Service) mountRootfs(ctx context.Context, id string, sandbox *sandboxEntry, img *image.Image) error {
	mounts, err := s.cfg.Snapshots.Prepare(ctx, id, img.ChainID, owner(sandbox.users()))
	if err != nil {
		return err
	}
	if err := s.halt("container snapshot"); err != nil {
		return err
	}
	if err := makeRunDir(s.containerRun(id), sandbox.users()); err != nil {
		return err
	}
	if err := os.Mkdir(s.rootfs(id), 0o711); err != nil {
		return fmt.Errorf("make root file system's mount point: %w", err)
	}
	return s.mountSnapshot(sandbox, id, mounts, s.rootfs(id))
}

// makeLogDir makes the directory of the container's log, below the sandbox's log directory, which the supervisor opens without following
// links.
func (s *Service) makeLogDir(e *containerEntry, sandbox *sandboxEntry) error {
	dir, name := sandbox.Config.Message.LogDirectory, e.Config.Message.LogPath
	if dir == "" || name == "" {
		return nil
	}
	if !filepath.IsLocal(name) {
		return status.Errorf(codes.InvalidArgument, "log path %q leads out of the sandbox's log directory", name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open log directory: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

// containerSpec gathers what the specification depends on and makes it.
func (s *Service) containerSpec(ctx context.Context, e *containerEntry, sandbox *sandboxEntry, img *image.Image, home string) (*specs.Spec, error) {
	config := proto.Clone(e.Config.Message).(*runtimeapi.ContainerConfig)
	if err := s.prepareMounts(ctx, e, sandbox, config); err != nil {
		return nil, err
	}
	hostname, err := sandbox.hostname()
	if err != nil {
		return nil, err
	}
	in := &oci.Input{
		Config: config, Sandbox: sandbox.Config.Message, Image: &img.Config, Root: s.rootfs(e.ID),
		CgroupPath: filepath.Join(s.sandboxCgroup(sandbox), e.ID), User: e.User, Home: home, HostnameEnv: hostname, Host: s.host, IDs: sandbox.users(),
	}
	if in.Namespaces, err = s.joined(e, sandbox); err != nil {
		return nil, err
	}
	in.Files = s.sandboxFiles(sandbox, config.GetLinux().GetSecurityContext().GetReadonlyRootfs())
	if in.Devices, err = readDevices(config.Devices); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if profile := config.GetLinux().GetSecurityContext().GetSeccomp(); profile.GetProfileType() == runtimeapi.SecurityProfile_Localhost {
		if in.Seccomp, err = s.readSeccomp(profile.LocalhostRef); err != nil {
			return nil, err
		}
	}
	if s.host.AppArmor && oci.AsksForAppArmor(config) {
		if in.AppArmorLoaded, err = loadedAppArmor(); err != nil {
			return nil, err
		}
	}
	if config.GetLinux().GetSecurityContext().GetPrivileged() {
		host := *s.host
		if host.Devices, err = hostDevices(); err != nil {
			return nil, err
		}
		in.Host = &host
	}
	spec, err := oci.Spec(in)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// Last, so that nothing takes away what devices bring along.
	return spec, s.injectDevices(spec, config)
}

// joined says which namespaces the container joins.
func (s *Service) joined(e *containerEntry, sandbox *sandboxEntry) (oci.Namespaces, error) {
	var n oci.Namespaces
	if sandbox.users().Private() {
		n.User = s.nsPath(sandbox.ID, "user")
	}
	if !sandbox.hostNetwork() {
		n.Network, n.UTS = s.nsPath(sandbox.ID, "net"), s.nsPath(sandbox.ID, "uts")
	}
	if !sandbox.hostIPC() {
		n.IPC = s.nsPath(sandbox.ID, "ipc")
	}
	options := e.Config.Message.GetLinux().GetSecurityContext().GetNamespaceOptions()
	switch options.GetPid() {
	case runtimeapi.NamespaceMode_NODE:
		n.HostPID = true
	case runtimeapi.NamespaceMode_POD:
		if !sandbox.Pause {
			return n, status.Error(codes.InvalidArgument, "the sandbox has no PID namespace to share")
		}
		n.PID = s.nsPath(sandbox.ID, "pid")
	case runtimeapi.NamespaceMode_TARGET:
		target, err := s.container(options.GetTargetId())
		if err != nil {
			return n, err
		}
		t := target.get()
		if t.Phase != phaseRunning || t.SandboxID != sandbox.ID {
			return n, status.Errorf(codes.FailedPrecondition, "target container %q is not running in the sandbox", target.id)
		}
		// Where the target itself shares a namespace, that one is meant.
		if mode := t.Config.Message.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid(); mode == runtimeapi.NamespaceMode_NODE {
			n.HostPID = true
		} else {
			n.PID = fmt.Sprintf("/proc/%d/ns/pid", t.Pid)
		}
	}
	return n, nil
}

// sandboxFiles are the mounts that all containers of a sandbox get.
func (s *Service) sandboxFiles(sandbox *sandboxEntry, readonly bool) []specs.Mount {
	access := "rw"
	if readonly {
		access = "ro"
	}
	options := []string{"rbind", "rprivate", access}
	if sandbox.users().Private() {
		options = append(options, oci.MapIDs)
	}
	var files []specs.Mount
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		files = append(files, specs.Mount{
			Destination: "/etc/" + name, Source: filepath.Join(s.memoryPath(sandbox.ID), name), Type: "bind",
			Options: options,
		})
	}
	shm := filepath.Join(s.memoryPath(sandbox.ID), "shm")
	if sandbox.hostIPC() {
		shm = "/dev/shm"
	}
	return append(files, specs.Mount{
		Destination: "/dev/shm", Source: shm, Type: "bind", Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"},
	})
}
