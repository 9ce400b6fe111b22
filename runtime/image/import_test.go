package image_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/runtime/image"
)

func TestImport(t *testing.T) {
	img := makeImage(t, v1.Config{Cmd: []string{"/a"}, User: "web"}, layerTar(t, member{name: "a", data: "one"}))
	var zipped bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	if _, err := gz.Write(saved(t, "zipped:v2", img)); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := openStore(t, image.Config{Dir: dir})
	for _, archive := range [][]byte{saved(t, "app:v1", img), zipped.Bytes()} {
		list, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || !list[0].Pinned || list[0].Username != "web" || list[0].Uid != nil {
			t.Errorf("imported %v", list)
		}
	}
	check := func(s *image.Store) {
		t.Helper()
		if err := s.CollectGarbage(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := s.ImageStatus(t.Context(), spec("zipped:v2"), false)
		want := []string{"docker.io/library/app:v1", "docker.io/library/zipped:v2"}
		if err != nil || !slices.Equal(st.GetImage().GetRepoTags(), want) || !st.Image.Pinned {
			t.Fatalf("status %v, %v", st, err)
		}
		resolved, err := s.Resolve(t.Context(), "app:v1")
		if err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, mountNew(t, s, "c", resolved.ChainID), "a"); got != "one" {
			t.Errorf("file holds %q", got)
		}
	}
	check(s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	check(openStore(t, image.Config{Dir: dir}))
}

func TestImportGarbage(t *testing.T) {
	img := makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: "one"}))
	good := saved(t, "app:v1", img)
	s := openStore(t, image.Config{})
	for name, archive := range map[string][]byte{
		"empty": nil, "text": []byte("not an archive"), "cut": good[:len(good)/2], "no image": layerTar(t, member{name: "a"}),
	} {
		if list, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{}); err == nil {
			t.Errorf("%s: imported %v", name, list)
		}
	}
	if _, err := s.Import(t.Context(), bytes.NewReader(good), image.ImportOptions{}); err != nil {
		t.Errorf("after those: %v", err)
	}
}

func TestServe(t *testing.T) {
	s := openStore(t, image.Config{})
	socket := filepath.Join(t.TempDir(), "run", "image.sock")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- image.Serve(ctx, socket, s) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	img := makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: noise(3 << 20)}))
	list, err := image.ImportOver(t.Context(), conn, bytes.NewReader(saved(t, "app:v1", img)), "")
	if err != nil || len(list) != 1 || list[0].RepoTags[0] != "docker.io/library/app:v1" {
		t.Fatalf("imported %v, %v", list, err)
	}
	if _, err := image.ImportOver(t.Context(), conn, strings.NewReader("nonsense"), ""); err == nil || !strings.Contains(err.Error(), "failed to import image archive") {
		t.Errorf("importing nonsense: %v", err)
	}
	client := runtimeapi.NewImageServiceClient(conn)
	if _, err := client.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec("app:v1")}); err != nil {
		t.Fatal(err)
	}
	answer, err := client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(answer.Images) != 0 {
		t.Errorf("after removal: %v, %v", answer, err)
	}
	// Another user is turned away even where the mode would let it in.
	for _, dir := range []string{filepath.Dir(socket), filepath.Dir(filepath.Dir(socket)), filepath.Dir(filepath.Dir(filepath.Dir(socket)))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if n, err := readAs(65534, socket); err != nil || n != 0 {
		t.Errorf("another user read %d bytes, %v", n, err)
	}
	if n, err := readAs(0, socket); err != nil || n == 0 {
		t.Errorf("root read %d bytes, %v", n, err)
	}
}

// readAs connects as a user, says what an HTTP/2 client says first, and returns how many bytes come back at first.
func readAs(uid int, socket string) (n int, err error) {
	err = ownthread.Run(func() error {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			return errno
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
			return err
		}
		n, err = c.Read(make([]byte, 100))
		return err
	})
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	return n, err
}
