package volume

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// maxFile is the longest file that is read out of a volume: no environment is longer.
const maxFile = 1 << 20

// File implements pod.Volumes. What is in the volume is its containers' to change: the path is resolved within it by the
// kernel, to a regular file, which cannot keep the reader waiting.
func (m *Manager) File(p *v1.Pod, name, path string) ([]byte, error) {
	v := volumeOf(p, name)
	if v == nil || v.EmptyDir == nil {
		return nil, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef among the Pod's emptyDir volumes", name)
	}
	root, err := unix.Open(m.volumeDir(p.UID, v), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("open %q in volume: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at %q in volume: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q in volume is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read %q in volume: %w", path, err)
	}
	return data, nil
}
