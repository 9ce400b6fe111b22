package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// checkHostPath makes, or checks, what a hostPath volume's type asks for.
func checkHostPath(s *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	switch kind {
	case v1.HostPathUnset:
		// No check; a container cannot start with what is not there, so a missing path becomes a directory.
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(s.Path, 0o755)
		}
		return nil
	case v1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(s.Path, 0o755)
		}
		return expect(s.Path, "directory", fs.FileMode.IsDir)
	case v1.HostPathDirectory:
		return expect(s.Path, "directory", fs.FileMode.IsDir)
	case v1.HostPathFileOrCreate:
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("hostPath type check failed: make file: %w", err)
			}
			return f.Close()
		}
		return expect(s.Path, "file", fs.FileMode.IsRegular)
	case v1.HostPathFile:
		return expect(s.Path, "file", fs.FileMode.IsRegular)
	case v1.HostPathSocket:
		return expect(s.Path, "socket file", func(m fs.FileMode) bool { return m.Type() == fs.ModeSocket })
	case v1.HostPathCharDev:
		return expect(s.Path, "character device", func(m fs.FileMode) bool { return m.Type() == fs.ModeDevice|fs.ModeCharDevice })
	case v1.HostPathBlockDev:
		return expect(s.Path, "block device", func(m fs.FileMode) bool { return m.Type() == fs.ModeDevice })
	}
	return fmt.Errorf("%s is an invalid volume type", kind)
}

func expect(path, what string, is func(fs.FileMode) bool) error {
	info, err := os.Stat(filepath.Clean(path))
	if err != nil || !is(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	return nil
}
