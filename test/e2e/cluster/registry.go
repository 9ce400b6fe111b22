package cluster

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

// Archives is a directory of images as OCI archives: stand-ins, under the same names, for the public images that the
// examples and the tests use.
type Archives struct {
	dir   string
	files map[string]string // image name as in a manifest -> file
}

// MakeArchives makes the archives, or finds those that an earlier run made of the same recipes in .build of the module.
func MakeArchives(ctx context.Context) (*Archives, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	build := filepath.Join(root, ".build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	// Tests of several packages may come here at once.
	lock, err := os.OpenFile(filepath.Join(build, "images.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	recipes, err := hashRecipes(filepath.Join(root, "test", "images"))
	if err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	list, err := imagesTool(ctx, root, "-list")
	if err != nil {
		return nil, err
	}
	a := &Archives{dir: filepath.Join(build, "images-"+recipes), files: map[string]string{}}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 2 && !strings.HasPrefix(f[0], "peapod.local/") {
			a.files[f[0]] = f[1]
		}
	}
	if _, err := os.Stat(a.dir); err == nil {
		return a, nil
	}
	unfinished := a.dir + ".part"
	if _, err := imagesTool(ctx, root, "-out", unfinished, "-cache", filepath.Join(build, "packages")); err != nil {
		return nil, err
	}
	return a, os.Rename(unfinished, a.dir)
}

func imagesTool(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "./test/images"}, args...)...)
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("make images: %w: %s", err, stderr.String())
	}
	return string(out), nil
}

// hashRecipes tells apart the sources that archives were made of.
func hashRecipes(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:12], err
}

// Names lists the images as manifests name them.
func (a *Archives) Names() []string {
	var names []string
	for n := range a.files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// File is the archive of an image.
func (a *Archives) File(image string) string { return filepath.Join(a.dir, a.files[image]) }

// Registry is Debian's docker-registry on a loopback port, without TLS.
type Registry struct {
	// Host is 127.0.0.1:port.
	Host string

	dir      string
	user     string
	password string
	server   *process
}

// StartRegistry starts an empty registry. If user is given, it asks for that user and password.
func StartRegistry(user, password string) (*Registry, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "peapod-registry-")
	if err != nil {
		return nil, fmt.Errorf("make registry directory: %w", err)
	}
	r := &Registry{Host: fmt.Sprintf("127.0.0.1:%d", port), dir: dir, user: user, password: password}
	if err := errors.Join(r.configure(), r.Start()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

func (r *Registry) configure() error {
	config := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", filepath.Join(r.dir, "data"), r.Host)
	if r.user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(r.password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("hash registry password: %w", err)
		}
		file := filepath.Join(r.dir, "htpasswd")
		if err := os.WriteFile(file, []byte(r.user+":"+string(hash)+"\n"), 0o600); err != nil {
			return fmt.Errorf("write registry users: %w", err)
		}
		config += fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n", file)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "config.yml"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write registry configuration: %w", err)
	}
	return nil
}

// Start starts the registry, again if it was stopped, and waits until it listens.
func (r *Registry) Start() error {
	cmd := exec.Command("docker-registry", "serve", filepath.Join(r.dir, "config.yml"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start registry (package docker-registry): %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	listening := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		for heard := false; lines.Scan(); {
			if !heard && strings.Contains(lines.Text(), "listening on") {
				heard = true
				close(listening)
			}
		}
		p.err = cmd.Wait()
		close(p.ended)
	}()
	select {
	case <-listening:
		r.server = p
		return nil
	case <-p.ended:
		return fmt.Errorf("start registry: it ended before it listened: %w", errOrZero(p.err))
	}
}

// Stop ends the registry and keeps what it holds.
func (r *Registry) Stop() error {
	if err := r.server.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop registry: %w", err)
	}
	<-r.server.ended
	return nil
}

// Close ends the registry and removes what it holds.
func (r *Registry) Close() error { return errors.Join(r.Stop(), os.RemoveAll(r.dir)) }

// Push puts the image of an OCI archive into the registry as repository[:tag].
func (r *Registry) Push(ctx context.Context, archive, repository string) error {
	ref, err := name.ParseReference(r.Host + "/" + repository)
	if err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	dir, err := os.MkdirTemp(r.dir, "push-")
	if err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	defer os.RemoveAll(dir)
	if err := extract(archive, dir); err != nil {
		return fmt.Errorf("push %s: unpack archive: %w", repository, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	if len(manifest.Manifests) != 1 {
		return fmt.Errorf("push %s: the archive holds %d images, not one", repository, len(manifest.Manifests))
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	auth := authn.Anonymous
	if r.user != "" {
		auth = &authn.Basic{Username: r.user, Password: r.password}
	}
	if err := remote.Write(ref, image, remote.WithContext(ctx), remote.WithAuth(auth)); err != nil {
		return fmt.Errorf("push %s: %w", repository, err)
	}
	return nil
}

// Mirror makes the node of a data directory get docker.io's images from this registry.
func (r *Registry) Mirror(dataDir string) error {
	dir := filepath.Join(dataDir, "registries", "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write registry mirror: %w", err)
	}
	hosts := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", r.Host, r.Host)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		return fmt.Errorf("write registry mirror: %w", err)
	}
	return nil
}

// extract unpacks the files of an archive that this project made.
func extract(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	in, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer in.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := in.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		out, err := in.Create(h.Name)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			return errors.Join(err, out.Close())
		}
		if err := out.Close(); err != nil {
			return err
		}
	}
}
