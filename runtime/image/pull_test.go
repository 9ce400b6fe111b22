package image_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/snapshot"
)

func TestPullAndRun(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	img := makeImage(t, v1.Config{User: "1000:3000", Cmd: []string{"/a"}, Env: []string{"A=b"}},
		layerTar(t, member{name: "a", data: "one"}, member{name: "gone", data: "x"}),
		layerTar(t, member{name: "b", data: "two"}, member{name: ".wh.gone"}))
	push(t, host+"/team/app:v1", img)
	s := openStore(t, image.Config{})
	ctx := t.Context()
	ref := host + "/team/app:v1"

	id := mustPull(t, s, ref)
	if want := mustID(t, img); id != want {
		t.Errorf("image ID = %s, want %s", id, want)
	}
	st, err := s.ImageStatus(ctx, spec(ref), true)
	if err != nil {
		t.Fatal(err)
	}
	manifest, _ := img.Digest()
	got := st.Image
	if !slices.Equal(got.RepoTags, []string{ref}) || !slices.Equal(got.RepoDigests, []string{host + "/team/app@" + manifest.String()}) {
		t.Errorf("tags %v, digests %v", got.RepoTags, got.RepoDigests)
	}
	if got.Uid.GetValue() != 1000 || got.Username != "" || got.Pinned || got.Size == 0 {
		t.Errorf("uid %v username %q pinned %v size %d", got.Uid, got.Username, got.Pinned, got.Size)
	}
	if !strings.Contains(st.Info["info"], "A=b") {
		t.Errorf("verbose info lacks the config: %v", st.Info)
	}

	resolved, err := s.Resolve(ctx, strings.TrimPrefix(id, "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	if resolved.Ref != ref || !slices.Equal(resolved.Config.Cmd, []string{"/a"}) {
		t.Errorf("resolved %+v", resolved)
	}
	root := mountNew(t, s, "c1", resolved.ChainID)
	if a, b := readFile(t, root, "a"), readFile(t, root, "b"); a != "one" || b != "two" {
		t.Errorf("files hold %q and %q", a, b)
	}
	if _, err := os.Stat(filepath.Join(root, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a whited-out file is there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "new"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	usage, err := s.Snapshots().Usage(ctx, "c1")
	if err != nil || usage.Bytes < 1<<20 || usage.Bytes > 2<<20 {
		t.Errorf("usage %+v, %v", usage, err)
	}

	// The image goes, its container stays.
	if err := s.RemoveImage(ctx, spec(ref)); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(ctx, spec(ref)); err != nil {
		t.Errorf("removing it again: %v", err)
	}
	if st, err := s.ImageStatus(ctx, spec(ref), false); err != nil || st.Image != nil {
		t.Errorf("status of removed image: %v, %v", st, err)
	}
	if got := readFile(t, root, "a"); got != "one" {
		t.Errorf("the container's file holds %q", got)
	}
	if _, err := s.Snapshots().Mounts(ctx, "c1"); err != nil {
		t.Error(err)
	}
	if err := snapshot.UnmountAt(root); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Snapshots().Remove(ctx, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CollectGarbage(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := s.ImageFsInfo(ctx)
	if err != nil || info.ImageFilesystems[0].UsedBytes.Value != 0 {
		t.Errorf("an empty store uses %v, %v", info, err)
	}
}

func mountNew(t *testing.T, s *image.Store, id, chain string) string {
	t.Helper()
	first, err := s.Snapshots().Prepare(t.Context(), id, chain, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Snapshots().Prepare(t.Context(), id, chain, nil)
	if err != nil || len(again) != len(first) || !slices.Equal(again[0].Options, first[0].Options) {
		t.Fatalf("preparing again gives %v, %v; want %v", again, err, first)
	}
	root := t.TempDir()
	if err := snapshot.MountAt(first, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := snapshot.UnmountAt(root); err != nil {
			t.Error(err)
		}
	})
	return root
}

func readFile(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPullErrors(t *testing.T) {
	host := startRegistry(t, registryOptions{user: "pea", password: "pod"})
	img := makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: "one"}))
	push(t, host+"/private:v1", img, remote.WithAuth(&authn.Basic{Username: "pea", Password: "pod"}))
	s := openStore(t, image.Config{})
	good := &runtimeapi.AuthConfig{Username: "pea", Password: "pod"}
	for _, tc := range []struct {
		name, ref string
		auth      *runtimeapi.AuthConfig
		kind      image.Kind
		code      codes.Code
		text      string
	}{
		{"no credentials", host + "/private:v1", nil, image.Unauthorized, codes.PermissionDenied, "pull access denied, repository does not exist or may require authorization"},
		{"wrong password", host + "/private:v1", &runtimeapi.AuthConfig{Username: "pea", Password: "x"}, image.Unauthorized, codes.PermissionDenied, "401"},
		{"credentials for another registry", host + "/private:v1", &runtimeapi.AuthConfig{Username: "pea", Password: "pod", ServerAddress: "other.example"}, image.Unauthorized, codes.PermissionDenied, "pull access denied"},
		{"no such tag", host + "/private:v9", good, image.NotFound, codes.NotFound, "not found"},
		{"nobody listens", "127.0.0.1:1/x", good, image.RegistryUnavailable, codes.Unavailable, "connection refused"},
		{"not a reference", "UPPER//case", good, image.InvalidReference, codes.InvalidArgument, "invalid reference format"},
		{"local but absent", image.LocalDomain + "/none", nil, image.NotFound, codes.NotFound, "never pulled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.PullImage(t.Context(), spec(tc.ref), tc.auth, nil)
			var e *image.Error
			if !errors.As(err, &e) || e.Kind != tc.kind || !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("kind %+v, error %v", e, err)
			}
			if st, _ := status.FromError(err); st.Code() != tc.code {
				t.Errorf("status code %v, want %v", st.Code(), tc.code)
			}
			if unavailable := errors.Is(err, crierrors.ErrRegistryUnavailable); unavailable != (tc.kind == image.RegistryUnavailable) {
				t.Errorf("registry unavailable: %v", unavailable)
			}
		})
	}
	auths := []*runtimeapi.AuthConfig{good, {Auth: "cGVhOnBvZA=="}, {Username: "pea", Password: "pod", ServerAddress: "http://" + host}}
	for _, auth := range auths {
		if _, err := s.PullImage(t.Context(), spec(host+"/private:v1"), auth, nil); err != nil {
			t.Errorf("with credentials: %v", err)
		}
	}
}

func TestPullOverTLS(t *testing.T) {
	ours, other := makeCertificates(t), makeCertificates(t)
	host := startRegistry(t, registryOptions{tls: ours})
	push(t, host+"/app:v1", makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: "one"})))
	configured := func(ca string) image.Config {
		dir := t.TempDir()
		data, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, host, "ca.crt"), string(data))
		return image.Config{RegistryConfigDir: dir}
	}
	mustPull(t, openStore(t, configured(ours.ca)), host+"/app:v1")
	mustPull(t, openStore(t, image.Config{}), host+"/app:v1")
	_, err := openStore(t, configured(other.ca)).PullImage(t.Context(), spec(host+"/app:v1"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("with another authority: %v", err)
	}
}

func TestPullThroughMirror(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	img := makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: "one"}))
	push(t, host+"/library/ubuntu:latest", img)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "docker.io", "hosts.toml"), "server = \"http://"+host+"\"\n[host.\"http://"+host+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
	s := openStore(t, image.Config{RegistryConfigDir: dir})
	mustPull(t, s, "ubuntu")
	st, err := s.ImageStatus(t.Context(), spec("ubuntu"), false)
	if err != nil || !slices.Equal(st.GetImage().GetRepoTags(), []string{"docker.io/library/ubuntu:latest"}) {
		t.Errorf("status %v, %v", st, err)
	}
}

// TestTagMoves: the image that a tag leaves stays, known by its digest.
func TestTagMoves(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	first := makeImage(t, v1.Config{Env: []string{"N=1"}}, layerTar(t, member{name: "a", data: "one"}))
	second := makeImage(t, v1.Config{Env: []string{"N=2"}}, layerTar(t, member{name: "a", data: "one"}))
	s := openStore(t, image.Config{})
	push(t, host+"/app:v1", first)
	mustPull(t, s, host+"/app:v1")
	push(t, host+"/app:v1", second)
	if id := mustPull(t, s, host+"/app:v1"); id != mustID(t, second) {
		t.Errorf("the tag names %s", id)
	}
	st, err := s.ImageStatus(t.Context(), spec(mustID(t, first)), false)
	if err != nil || st.Image == nil || len(st.Image.RepoTags) != 0 || len(st.Image.RepoDigests) != 1 {
		t.Errorf("the first image is %v, %v", st, err)
	}
	dgst, _ := first.Digest()
	byDigest := host + "/app@" + dgst.String()
	if id := mustPull(t, s, byDigest); id != mustID(t, first) {
		t.Errorf("%s names %s", byDigest, id)
	}
}

// proxy stands before a registry and lets a test count and break requests.
func proxy(t *testing.T, host string, before func(w http.ResponseWriter, r *http.Request) bool, modify func(*http.Response) error) string {
	t.Helper()
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	p.ModifyResponse = modify
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before == nil || before(w, r) {
			p.ServeHTTP(w, r)
		}
	}))
}

func TestConcurrentPullsShareTheWork(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	push(t, host+"/app:v1", makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: "one"}), layerTar(t, member{name: "b", data: "two"})))
	var blobs atomic.Int32
	via := proxy(t, host, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		return true
	}, nil)
	s := openStore(t, image.Config{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.PullImage(t.Context(), spec(via+"/app:v1"), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := blobs.Load(); n != 3 {
		t.Errorf("%d blobs fetched, want config and two layers", n)
	}
}

// TestPullResumes: what a broken pull fetched is not fetched again.
func TestPullResumes(t *testing.T) {
	host := startRegistry(t, registryOptions{})
	noise := noise(4 << 20)
	push(t, host+"/app:v1", makeImage(t, v1.Config{}, layerTar(t, member{name: "a", data: noise})))
	var broken atomic.Bool
	broken.Store(true)
	var resumedAt atomic.Value
	var layer atomic.Value
	via := proxy(t, host, func(_ http.ResponseWriter, r *http.Request) bool {
		if layer.Load() == r.URL.Path && !broken.Load() {
			resumedAt.CompareAndSwap(nil, r.Header.Get("Range"))
		}
		return true
	}, func(resp *http.Response) error {
		if broken.Load() && resp.ContentLength > 1<<20 {
			if !layer.CompareAndSwap(nil, resp.Request.URL.Path) {
				return errors.New("the registry goes away")
			}
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, 2<<20), resp.Body}
		}
		return nil
	})
	s := openStore(t, image.Config{})
	if _, err := s.PullImage(t.Context(), spec(via+"/app:v1"), nil, nil); err == nil {
		t.Fatal("the pull succeeded over a broken connection")
	}
	broken.Store(false)
	mustPull(t, s, via+"/app:v1")
	if at, _ := resumedAt.Load().(string); !strings.HasPrefix(at, "bytes=") || strings.HasPrefix(at, "bytes=0-") {
		t.Errorf("the second attempt asked for range %q", at)
	}
}
