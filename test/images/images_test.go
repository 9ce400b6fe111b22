package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseDepends(t *testing.T) {
	out := `nginx
  Depends: libc6
 |Depends: init-system-helpers
  Depends: <virtual>
    provider
 |Depends: libone
  Depends: libother
  PreDepends: libtwo
  Recommends: nothing
libc6
  Depends: libgcc-s1
<virtual>
  Depends: provider
`
	got := parseDepends(out)
	if want := []string{"libc6", "libone", "libtwo"}; !slices.Equal(got["nginx"], want) {
		t.Errorf("parsed %v, want %v", got["nginx"], want)
	}
	if want := []string{"libgcc-s1"}; !slices.Equal(got["libc6"], want) {
		t.Errorf("parsed %v, want %v", got["libc6"], want)
	}
}

// TestSameInputSameBytes also covers what packages contain: merged directories, hard links, documentation.
func TestSameInputSameBytes(t *testing.T) {
	var pkg bytes.Buffer
	tw := tar.NewWriter(&pkg)
	for _, h := range []tar.Header{
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o755, Size: 4},
		{Name: "./bin/alias", Typeflag: tar.TypeLink, Linkname: "./bin/tool"},
		{Name: "./usr/share/doc/tool/README", Typeflag: tar.TypeReg, Size: 4},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write([]byte("text")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var archives [2][]byte
	for i := range archives {
		root := newRoot()
		if err := root.addTar(bytes.NewReader(pkg.Bytes())); err != nil {
			t.Fatal(err)
		}
		if got := root["usr/bin/alias"].header.Linkname; got != "usr/bin/tool" {
			t.Errorf("the hard link names %q", got)
		}
		if _, ok := root["usr/share/doc/tool/README"]; ok || root["bin"].header.Typeflag != tar.TypeSymlink {
			t.Error("the root is not merged or has documentation")
		}
		path := filepath.Join(dir, "image.tar")
		l, err := compress(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeArchive(path, "tool", ocispec.ImageConfig{Cmd: []string{"tool"}}, []layer{l}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = data
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same input differ")
	}
}
