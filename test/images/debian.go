package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// left lists packages that Debian's dependencies name but that these images do well without: what installs and configures
// packages, and what serves a whole system.
var left = []string{
	"awk", "cdebconf", "debconf", "debconf-2.0", "debianutils", "dpkg", "gawk", "init-system-helpers", "install-info", "iproute2",
	"libdebconfclient0", "mawk", "original-awk", "perl", "perl-base", "tar", "usr-is-merged", "usrmerge", "gcc-12-base", "libsasl2-modules-db",
	"readline-common",
}

// debian fetches packages with apt into a folder and unpacks them.
type debian struct{ cache string }

// add puts the packages, with all they depend on but not what the trees in base have, into t.
func (d debian) add(t tree, base []tree, packages ...string) error {
	closure, err := dependencies(packages)
	if err != nil {
		return err
	}
	for _, name := range closure {
		path, err := d.fetch(name)
		if err != nil {
			return err
		}
		if err := d.unpack(t, path); err != nil {
			return fmt.Errorf("unpack package %s: %w", name, err)
		}
	}
	for name, e := range t {
		for _, b := range base {
			if have, ok := b[name]; ok && have.header.Mode == e.header.Mode && bytes.Equal(have.data, e.data) {
				delete(t, name)
			}
		}
	}
	return checkLibraries(append(slices.Clone(base), t)...)
}

func (d debian) unpack(t tree, path string) error {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = t.addTar(bufio.NewReaderSize(out, 1<<20))
	if closeErr := out.Close(); err != nil {
		err = errors.Join(err, closeErr)
	}
	waitErr := cmd.Wait()
	if err != nil {
		return err
	}
	// The padding after a tar's end is not read, which dpkg-deb may notice.
	var exit *exec.ExitError
	if errors.As(waitErr, &exit) && strings.Contains(exit.String(), "broken pipe") {
		return nil
	}
	return waitErr
}

// fetch returns the package's file, downloaded once.
func (d debian) fetch(name string) (string, error) {
	pattern := filepath.Join(d.cache, name+"_*.deb")
	for range 2 {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for package %s: %w", name, err)
		}
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
		cmd := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name)
		cmd.Dir = d.cache
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("download package %s: %w: %s (is apt-get update needed?)", name, err, out)
		}
	}
	return "", fmt.Errorf("download package %s: apt left no file", name)
}

// dependencies returns the packages and what they need, sorted.
func dependencies(packages []string) ([]string, error) {
	// One call for all: each takes apt half a second.
	out, err := exec.Command("apt-cache", append([]string{"depends", "--recurse", "-i"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask for dependencies of packages %v: %w (is apt-get update needed?)", packages, err)
	}
	depends := parseDepends(string(out))
	seen := map[string]bool{}
	for queue := slices.Clone(packages); len(queue) > 0; queue = queue[1:] {
		if name := queue[0]; !seen[name] {
			seen[name] = true
			queue = append(queue, depends[name]...)
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// parseDepends reads apt-cache's answer, a block a package, its name first: of alternatives ("|Depends:" on all but the
// last) the first counts; a virtual package is in angle brackets.
func parseDepends(out string) map[string][]string {
	depends := map[string][]string{}
	current, alternative := "", false
	for line := range strings.Lines(out) {
		text := strings.TrimSpace(line)
		if line[0] != ' ' {
			current, alternative = text, false
			continue
		}
		bar := strings.HasPrefix(text, "|")
		kind, name, ok := strings.Cut(strings.TrimPrefix(text, "|"), ": ")
		if !ok || kind != "Depends" && kind != "PreDepends" {
			continue
		}
		if !alternative && !strings.HasPrefix(name, "<") && !slices.Contains(left, name) {
			depends[current] = append(depends[current], name)
		}
		alternative = bar
	}
	return depends
}
