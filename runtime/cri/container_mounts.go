package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// prepareMounts makes every mount of config a bind of something that exists: image volumes are mounted, missing sources made (as Docker
// does), links in them resolved.
func (s *Service) prepareMounts(ctx context.Context, e *containerEntry, sandbox *sandboxEntry, config *runtimeapi.ContainerConfig) error {
	for i, m := range config.Mounts {
		if m.GetImage().GetImage() != "" {
			if err := s.mountImage(ctx, e, sandbox, m, fmt.Sprintf("%s-image-%d", e.ID, i)); err != nil {
				return err
			}
			continue
		}
		if err := prepareSource(m); err != nil {
			return fmt.Errorf("failed to prepare mount %q: %w", m.HostPath, err)
		}
	}
	return nil
}

func prepareSource(m *runtimeapi.Mount) error {
	if m.HostPath == "" {
		return status.Errorf(codes.InvalidArgument, "mount on %q has no host path", m.ContainerPath)
	}
	source, err := filepath.EvalSymlinks(m.HostPath)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
			return err
		}
		source, err = filepath.EvalSymlinks(m.HostPath)
	}
	if err != nil {
		return err
	}
	// A descriptor's link means the file that is open, which has no other name that must hold.
	if !strings.HasPrefix(m.HostPath, "/proc/") {
		m.HostPath = source
	}
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return checkPropagation(source, "shared", func(optional string) bool { return strings.Contains(optional, "shared:") })
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return checkPropagation(source, "shared or slave", func(optional string) bool {
			return strings.Contains(optional, "shared:") || strings.Contains(optional, "master:")
		})
	}
	return nil
}

// checkPropagation refuses a mount whose propagation the machine's own mounts would silently not provide.
func checkPropagation(path, kind string, ok func(optional string) bool) error {
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var parent *mountinfo.Info
	for _, info := range infos {
		if parent == nil || len(info.Mountpoint) >= len(parent.Mountpoint) {
			parent = info
		}
	}
	if parent == nil {
		return fmt.Errorf("path %q is on no mount", path)
	}
	if !ok(parent.Optional) {
		return fmt.Errorf("path %q is mounted on %q but it is not a %s mount", path, parent.Mountpoint, kind)
	}
	return nil
}

// mountImage mounts an image read-only below the container's run directory, its IDs mapped where the sandbox's are, and makes m a bind of
// it.
func (s *Service) mountImage(ctx context.Context, e *containerEntry, sandbox *sandboxEntry, m *runtimeapi.Mount, key string) error {
	img, err := s.cfg.Images.Resolve(ctx, m.Image.ImageRef)
	if err != nil {
		return fmt.Errorf("resolve image %q of a volume: %w", m.Image.Image, err)
	}
	mounts, err := s.cfg.Snapshots.View(ctx, key, img.ChainID)
	if err != nil {
		return err
	}
	target := filepath.Join(s.containerRun(e.ID), key)
	if err := os.Mkdir(target, 0o711); err != nil {
		return fmt.Errorf("make mount point of image %q: %w", m.Image.Image, err)
	}
	if err := s.mountSnapshot(sandbox, e.ID, mounts, target); err != nil {
		return err
	}
	m.HostPath, m.Image, m.UidMappings, m.GidMappings = target, nil, nil, nil
	if m.ImageSubPath == "" {
		return nil
	}
	return s.enterImage(m, target)
}

// enterImage narrows an image volume to a directory of it. The image is untrusted: the path is resolved within it, and since the view is
// read-only nobody can change what it resolved to.
func (s *Service) enterImage(m *runtimeapi.Mount, root string) error {
	sub := m.ImageSubPath
	if !filepath.IsLocal(sub) {
		return status.Errorf(codes.InvalidArgument, "image sub-path %q leads out of the image", sub)
	}
	f, err := openInRoot(root, sub)
	if err != nil {
		return fmt.Errorf("open %q in image: %w", sub, err)
	}
	defer f.Close()
	resolved, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return fmt.Errorf("resolve %q in image: %w", sub, err)
	}
	m.HostPath, m.ImageSubPath = resolved, ""
	return nil
}
