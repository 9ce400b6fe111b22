package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/peapod/peapod/runtime/image"
)

func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// noise does not compress.
func noise(n int) string {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	_, _ = r.Read(data)
	return string(data)
}

func saved(t *testing.T, ref string, img v1.Image) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, img, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestMain lets the test binary be the process that TestKilledPull kills.
func TestMain(m *testing.M) {
	if ref := os.Getenv("IMAGE_TEST_PULL"); ref != "" {
		s, err := image.Open(context.Background(), image.Config{Dir: os.Getenv("IMAGE_TEST_DIR")})
		if err == nil {
			_, err = s.PullImage(context.Background(), spec(ref), nil, nil)
		}
		fmt.Fprintln(os.Stderr, "pull ended:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestKilledPull: a process killed while it pulls and unpacks leaves nothing that the next one does not clear away.
func TestKilledPull(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	push(t, host+"/app:v1", makeImage(t, v1.Config{},
		layerTar(t, member{name: "a", data: noise(1 << 20)}), layerTar(t, member{name: "b", data: noise(4 << 20)})))
	// The second layer stops half way, until the test has killed the process that waits for it.
	stuck, killed := make(chan struct{}), make(chan struct{})
	via := proxy(t, host, nil, func(resp *http.Response) error {
		if resp.Request.Method == http.MethodGet && resp.ContentLength > 2<<20 {
			resp.Body = &stuckBody{ReadCloser: resp.Body, left: 2 << 20, stuck: stuck, killed: killed}
		}
		return nil
	})
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "IMAGE_TEST_PULL="+via+"/app:v1", "IMAGE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-stuck:
	case err := <-ended:
		t.Fatalf("the pull ended before it was stuck: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	close(killed)
	blobs, layers := filepath.Join(dir, "content", "blobs", "sha256"), filepath.Join(dir, "overlayfs", "snapshots")
	ingest := filepath.Join(dir, "content", "ingest")
	if len(files(t, blobs)) == 0 || len(files(t, ingest)) == 0 || len(files(t, layers)) == 0 {
		t.Fatal("the killed pull left nothing: this test shows nothing")
	}
	s := openStore(t, image.Config{Dir: dir})
	if list, err := s.ListImages(t.Context(), nil); err != nil || len(list) != 0 {
		t.Errorf("images: %v, %v", list, err)
	}
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{blobs, ingest, layers} {
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
	mustPull(t, s, host+"/app:v1")
}

type stuckBody struct {
	io.ReadCloser
	left          int
	stuck, killed chan struct{}
}

func (b *stuckBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		select {
		case <-b.stuck:
		default:
			close(b.stuck)
		}
		<-b.killed
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// TestStrayFiles: what a process was killed before it could remove goes at the next start, images stay.
func TestStrayFiles(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, image.Config{Dir: dir})
	if _, err := s.Import(t.Context(), bytes.NewReader(saved(t, "app:v1", makeImage(t, v1.Config{}, layerTar(t, member{name: "a"})))), image.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "content", "blobs", "sha256", strings.Repeat("a", 64))
	writeFile(t, blob, "stray")
	// Of a snapshot that the database does not know, far away and with the next numbers that it gives.
	layer := filepath.Join(dir, "overlayfs", "snapshots", "4711")
	writeFile(t, filepath.Join(layer, "fs", "file"), "stray")
	for id := 1; id < 9; id++ {
		path := filepath.Join(dir, "overlayfs", "snapshots", strconv.Itoa(id))
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			writeFile(t, filepath.Join(path, "fs", "file"), "stray")
		}
	}
	ingest := filepath.Join(dir, "content", "ingest", "abc")
	writeFile(t, filepath.Join(ingest, "startedat"), "")
	s = openStore(t, image.Config{Dir: dir})
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{blob, layer, ingest} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "app:v1"); err != nil {
		t.Error(err)
	}
}

// TestHostileLayers: no layer writes, links or deletes outside of its image.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	writeFile(t, secret, "host")
	up := strings.Repeat("../", 30) + strings.TrimPrefix(secret, "/")
	for name, layers := range map[string][][]byte{
		"dot dot":               {layerTar(t, member{name: up, data: "evil"})},
		"absolute name":         {layerTar(t, member{name: secret, data: "evil"})},
		"through absolute link": {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: outside}, member{name: "d/secret", data: "evil"})},
		"through relative link": {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: filepath.Dir(up)}, member{name: "d/secret", data: "evil"})},
		"link below":            {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: outside}), layerTar(t, member{name: "d/secret", data: "evil"})},
		"hard link to the host": {layerTar(t, member{name: "h", kind: tar.TypeLink, link: up}, member{name: "h", data: "evil"})},
		"hard link via link": {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: outside},
			member{name: "h", kind: tar.TypeLink, link: "d/secret"}, member{name: "h", data: "evil"})},
		"whiteout outside":      {layerTar(t, member{name: filepath.Dir(up) + "/.wh.secret"})},
		"whiteout through link": {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: outside}), layerTar(t, member{name: "d/.wh.secret"})},
		"opaque through link":   {layerTar(t, member{name: "d", kind: tar.TypeSymlink, link: outside}), layerTar(t, member{name: "d/.wh..wh..opq"})},
		"whiteout of parent":    {layerTar(t, member{name: ".wh..."}), layerTar(t, member{name: ".wh.."})},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, image.Config{})
			list, err := s.Import(t.Context(), bytes.NewReader(saved(t, "evil:v1", makeImage(t, v1.Config{}, layers...))), image.ImportOptions{})
			t.Logf("import: %d images, error %v", len(list), err)
			data, readErr := os.ReadFile(secret)
			if readErr != nil || string(data) != "host" {
				t.Fatalf("the file outside holds %q, %v", data, readErr)
			}
			if err != nil {
				return
			}
			resolved, err := s.Resolve(t.Context(), "evil:v1")
			if err != nil {
				t.Fatal(err)
			}
			root := mountNew(t, s, "c", resolved.ChainID)
			info, err := os.Lstat(filepath.Join(root, "h"))
			if err == nil {
				if host, err := os.Stat(secret); err != nil || os.SameFile(info, host) {
					t.Errorf("the image has a link to the host's file (%v)", err)
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	small := layerTar(t, member{name: "a", data: "one"})
	many := make([][]byte, 128)
	for i := range many {
		many[i] = layerTar(t, member{name: fmt.Sprint(i)})
	}
	for name, img := range map[string]v1.Image{
		"large config": makeImage(t, v1.Config{Labels: map[string]string{"x": strings.Repeat("x", 5<<20)}}, small),
		"many layers":  makeImage(t, v1.Config{}, many...),
		"long user":    makeImage(t, v1.Config{User: strings.Repeat("u", 300)}, small),
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, image.Config{})
			_, err := s.Import(t.Context(), bytes.NewReader(saved(t, "big:v1", img)), image.ImportOptions{})
			var e *image.Error
			if !errors.As(err, &e) || e.Kind != image.Refused || !strings.Contains(err.Error(), "not accepted") {
				t.Fatalf("error %v", err)
			}
			if err := s.CollectGarbage(t.Context()); err != nil {
				t.Fatal(err)
			}
			info, err := s.ImageFsInfo(t.Context())
			if err != nil || info.ImageFilesystems[0].UsedBytes.Value != 0 {
				t.Errorf("a refused image left %v, %v", info, err)
			}
		})
	}
}

func TestPullLimits(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	var config atomic.Int32
	via := proxy(t, host, nil, func(resp *http.Response) error {
		if strings.Contains(resp.Request.URL.Path, "/blobs/") && resp.ContentLength > 5<<20 {
			config.Add(1)
		}
		return nil
	})
	push(t, host+"/big:v1", makeImage(t, v1.Config{Labels: map[string]string{"x": strings.Repeat("x", 5<<20)}}, layerTar(t, member{name: "a"})))
	_, err := openStore(t, image.Config{}).PullImage(t.Context(), spec(via+"/big:v1"), nil, nil)
	var e *image.Error
	if !errors.As(err, &e) || e.Kind != image.Refused {
		t.Errorf("error %v", err)
	}
	if config.Load() != 0 {
		t.Error("the large config was fetched")
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	openStore(t, image.Config{Dir: dir})
	if s, err := image.Open(t.Context(), image.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened %v, error %v", s, err)
	}
}
