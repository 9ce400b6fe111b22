package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A volume of files looks like this, so that a reader sees all of one version or all of another (the layout is part of
// Kubernetes' API: programs watch the link ..data):
//
//	<dir>/..2026_01_02_15_04_05.000000001/key   the files of one version
//	<dir>/..data -> ..2026_01_02_15_04_05.000000001
//	<dir>/key -> ..data/key                     one link for each first path element
const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
	versionTime = "..2006_01_02_15_04_05.000000000"
)

// writeFiles makes files the content of dir in one step, or does nothing where they are already. gid, where given, owns
// them and may read them. Killed at any point it leaves the old version or the new one, and calling it again cleans up.
func writeFiles(dir string, files map[string]file, gid *int64) error {
	for path := range files {
		// The API server has checked this; a path that leaves the directory is refused wherever it came from.
		if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
			return fmt.Errorf("invalid path %q in volume", path)
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read current version: %w", err)
	}
	if current != "" && sameContent(filepath.Join(dir, current), files) {
		return errors.Join(linkNames(dir, files), dropOthers(dir, current, files))
	}
	version := time.Now().UTC().Format(versionTime)
	if err := writeVersion(filepath.Join(dir, version), files, gid); err != nil {
		return err
	}
	tmp := filepath.Join(dir, newDataLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old link: %w", err)
	}
	if err := os.Symlink(version, tmp); err != nil {
		return fmt.Errorf("link new version: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return fmt.Errorf("switch to new version: %w", err)
	}
	return errors.Join(linkNames(dir, files), dropOthers(dir, version, files))
}

// writeVersion writes files to the new directory dir.
func writeVersion(dir string, files map[string]file, gid *int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make version: %w", err)
	}
	for path, f := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return fmt.Errorf("make directory of %s: %w", path, err)
		}
		if err := os.WriteFile(full, f.data, f.mode); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		uid, group, mode := -1, -1, f.mode
		if f.uid != nil {
			uid = int(*f.uid)
		}
		if gid != nil {
			group = int(*gid)
			mode |= 0o440
		}
		if err := os.Lchown(full, uid, group); err != nil {
			return fmt.Errorf("give %s to its owner: %w", path, err)
		}
		// After chown, and not by WriteFile alone: both clear or mask bits.
		if err := os.Chmod(full, mode); err != nil {
			return fmt.Errorf("set mode of %s: %w", path, err)
		}
	}
	// Umask may have taken from the directories' modes.
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if gid != nil {
			if err := os.Lchown(path, -1, int(*gid)); err != nil {
				return err
			}
			return os.Chmod(path, 0o755|os.ModeSetgid)
		}
		return os.Chmod(path, 0o755)
	})
}

// sameContent says whether dir holds exactly files.
func sameContent(dir string, files map[string]file) bool {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[rel]
		if !ok {
			return fs.ErrExist
		}
		n++
		have, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.data) {
			return fs.ErrInvalid
		}
		return nil
	})
	return err == nil && n == len(files)
}

func firstElement(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

// linkNames makes the names that users see.
func linkNames(dir string, files map[string]file) error {
	for path := range files {
		name := firstElement(path)
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// dropOthers removes the names that files no longer have, and all versions but the current one.
func dropOthers(dir, current string, files map[string]file) error {
	names := map[string]bool{dataLink: true, current: true}
	for path := range files {
		names[firstElement(path)] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list volume: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !names[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
