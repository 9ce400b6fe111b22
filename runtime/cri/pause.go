package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/oci"
	"github.com/peapod/peapod/runtime/supervisor"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// pauseUser runs the first process of shared PID namespaces: nobody's.
const pauseUser = 65535

// startPause starts the first process of the sandbox's shared PID namespace, confined like any container, and pins the namespace.
func (s *Service) startPause(ctx context.Context, e *sandboxEntry) error {
	shared, err := s.pauseRoot()
	if err != nil {
		return err
	}
	// The data directory is closed to the root of a user namespace, which this one is open to.
	root := s.nsPath(e.ID, "pause")
	if err := os.Mkdir(root, 0o711); err != nil {
		return fmt.Errorf("make root of first process: %w", err)
	}
	if err := unix.Mount(shared, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make root of first process: %w", err)
	}
	limits := e.Config.Message.GetLinux().GetResources()
	config := &runtimeapi.ContainerConfig{
		Command: []string{"/pause"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{OomScoreAdj: max(limits.GetOomScoreAdj(), -998), CpuShares: 2},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}, ReadonlyRootfs: true, NoNewPrivs: true,
				Seccomp:     &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
			},
		},
	}
	sandbox := *e
	namespaces, err := s.joined(&containerEntry{Config: packed[*runtimeapi.ContainerConfig]{Message: config}}, &sandbox)
	if err != nil {
		return err
	}
	namespaces.PID = "" // a new one
	spec, err := oci.Spec(&oci.Input{
		Config: config, Sandbox: e.Config.Message, Image: &v1.ImageConfig{}, Root: root, Namespaces: namespaces, IDs: e.users(), Host: s.host,
		CgroupPath: filepath.Join(s.sandboxCgroup(e), e.ID), User: specs.User{UID: pauseUser, GID: pauseUser},
	})
	if err != nil {
		return err
	}
	// The image has no place to mount these, and nothing in it uses them.
	spec.Mounts = spec.Mounts[:2]
	spec.Linux.MaskedPaths = spec.Linux.MaskedPaths[:4]
	body, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	started, err := s.cfg.Supervisor.Start(ctx, e.ID, &protocol.StartRequest{Spec: body})
	if err != nil {
		return fmt.Errorf("start first process of shared PID namespace: %w", err)
	}
	pin := s.nsPath(e.ID, "pid")
	if err := os.WriteFile(pin, nil, 0o444); err != nil {
		return fmt.Errorf("pin pid namespace: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/pid", started.Pid), pin, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin pid namespace: %w", err)
	}
	return nil
}

// pauseRoot is the read-only root of such processes: one file and the places for /proc and /dev. All share it.
func (s *Service) pauseRoot() (string, error) {
	program := s.cfg.Pause
	if program == nil {
		var err error
		if program, err = supervisor.Embedded(); err != nil {
			return "", err
		}
	}
	root := filepath.Join(s.cfg.DataDir, "pause", program.Build())
	if _, err := os.Stat(filepath.Join(root, "pause")); err == nil {
		return root, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("open pause program: %w", err)
	}
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", fmt.Errorf("make pause root: %w", err)
		}
	}
	return root, program.WriteTo(filepath.Join(root, "pause"))
}
