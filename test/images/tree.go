package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// epoch is the time of everything in an image: the same input makes the same bytes.
var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// tree is a file system to be: clean relative path -> entry.
type tree map[string]entry

type entry struct {
	header tar.Header
	data   []byte
}

// merged lists the directories that Debian keeps below usr, with links in their old places.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// newRoot is a root directory with what every image has.
func newRoot() tree {
	t := tree{}
	for _, dir := range []string{"dev", "etc", "home", "proc", "run", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/log"} {
		t.dir(dir, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.dir("var/tmp", 0o1777)
	for _, name := range merged {
		t.link(name, "usr/"+name)
	}
	t.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"+
		"www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nmember:x:2000:2000:in a group:/:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	t.file("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nadm:x:4:\nwww-data:x:33:\nusers:x:100:\nteam:x:5000:member\nnogroup:x:65534:\n")
	t.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
	return t
}

func (t tree) dir(name string, mode int64) {
	t.add(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, nil)
}

func (t tree) link(name, target string) {
	t.add(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, nil)
}

func (t tree) file(name string, mode int64, data string) {
	t.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, []byte(data))
}

func (t tree) add(h tar.Header, data []byte) {
	for parent := path.Dir(h.Name); parent != "."; parent = path.Dir(parent) {
		if _, ok := t[parent]; !ok {
			t[parent] = entry{header: tar.Header{Name: parent, Typeflag: tar.TypeDir, Mode: 0o755}}
		}
	}
	t[h.Name] = entry{header: h, data: data}
}

// addTar adds the files of a tar stream, at their places in a root with merged directories. Documentation stays out.
func (t tree) addTar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package: %w", err)
		}
		name := usrPath(h.Name)
		if name == "." || unwanted(name) || slices.Contains(merged, strings.TrimPrefix(name, "usr/")) {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("read %s of package: %w", name, err)
		}
		link := h.Linkname
		if h.Typeflag == tar.TypeLink {
			link = usrPath(link)
		}
		t.add(tar.Header{Name: name, Typeflag: h.Typeflag, Linkname: link, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid}, data)
	}
}

func usrPath(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(merged, first) {
		name = "usr/" + name
	}
	if name == "" {
		return "."
	}
	return name
}

func unwanted(name string) bool {
	for _, prefix := range []string{
		"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info", "usr/share/bash-completion",
		"usr/share/bug", "etc/init.d", "usr/lib/systemd/system", "etc/apparmor.d",
	} {
		if name == prefix || strings.HasPrefix(name, prefix+"/") {
			return true
		}
	}
	return false
}

// write makes the layer's tar. Parents come before their children and links after what they name.
func (t tree) write(w io.Writer) error {
	tw := tar.NewWriter(w)
	names := slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		aHard, bHard := t[a].header.Typeflag == tar.TypeLink, t[b].header.Typeflag == tar.TypeLink
		if aHard != bHard {
			if aHard {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		e := t[name]
		h := e.header
		h.Size, h.ModTime, h.Format = int64(len(e.data)), epoch, tar.FormatPAX
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if err := tw.WriteHeader(&h); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := tw.Write(e.data); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return tw.Close()
}

// checkLibraries makes sure that the shared libraries of all programs are in one of the trees.
func checkLibraries(trees ...tree) error {
	have := map[string]bool{}
	for _, t := range trees {
		for name := range t {
			have[path.Base(name)] = true
		}
	}
	for _, t := range trees {
		for name, e := range t {
			if !bytes.HasPrefix(e.data, []byte(elf.ELFMAG)) {
				continue
			}
			f, err := elf.NewFile(bytes.NewReader(e.data))
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			needed, err := f.ImportedLibraries()
			if err != nil {
				return fmt.Errorf("read libraries of %s: %w", name, err)
			}
			for _, lib := range needed {
				if !have[lib] {
					return fmt.Errorf("%s needs %s, which no package brought", name, lib)
				}
			}
		}
	}
	return nil
}
