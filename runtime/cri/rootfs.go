package cri

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/oci"
)

// openInRoot opens path (O_PATH) as a process whose root is root would: no link leads out of it.
func openInRoot(root, path string) (*os.File, error) {
	return openAtRoot(root, path, unix.O_PATH)
}

func openAtRoot(root, path string, flags uint64) (*os.File, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(root, path), Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openImageFile opens a regular file of an image for reading; any other kind of file counts as absent, and a pipe cannot block.
func openImageFile(root, path string) (io.ReadCloser, error) {
	f, err := openAtRoot(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return f, nil
}

// resolveUser finds the container's user and home directory in the mounted image.
func (s *Service) resolveUser(e *containerEntry, img *image.Image) (specs.User, string, error) {
	passwd, err := openImageFile(s.rootfs(e.ID), "/etc/passwd")
	if err != nil {
		return specs.User{}, "", fmt.Errorf("open the image's /etc/passwd: %w", err)
	}
	defer passwd.Close()
	group, err := openImageFile(s.rootfs(e.ID), "/etc/group")
	if err != nil {
		return specs.User{}, "", fmt.Errorf("open the image's /etc/group: %w", err)
	}
	defer group.Close()
	return oci.ResolveUser(e.Config.Message.GetLinux().GetSecurityContext(), img.Config.User, passwd, group)
}

// maxSeccomp bounds a seccomp profile, in bytes.
const maxSeccomp = 1 << 20

// readSeccomp reads a Localhost profile: a file of the machine by its absolute path, or one below the profile root, however
// that is written: no link there leads out of it.
func (s *Service) readSeccomp(name string) (*specs.LinuxSeccomp, error) {
	root, rel := s.cfg.SeccompProfileRoot, name
	if below, err := filepath.Rel(root, name); err == nil && filepath.IsLocal(below) {
		rel = below
	} else if filepath.IsAbs(name) {
		root, rel = "/", name[1:]
	}
	f, err := openAtRoot(root, rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open seccomp profile %q: %w", name, err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxSeccomp+1))
	if err != nil {
		return nil, fmt.Errorf("read seccomp profile %q: %w", name, err)
	}
	if len(body) > maxSeccomp {
		return nil, fmt.Errorf("read seccomp profile %q: it has more than %d bytes", name, maxSeccomp)
	}
	return oci.ParseSeccomp(body)
}
