// Package builtin carries the image that comes with Peapod, so that a first Pod runs with no registry reachable. The build
// puts it in artifacts/hello.tar (go run ./test/images -out runtime/image/builtin/artifacts peapod.local/hello:latest); a
// plain `go build` without it works, and the program then has no image of its own.
package builtin

import (
	"archive/tar"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/runtime/image"
)

// HelloName is the image's name. Its registry is never dialled.
const HelloName = image.LocalDomain + "/hello:latest"

const archivePath = "artifacts/hello.tar"

//go:embed all:artifacts
var artifacts embed.FS

// ErrAbsent says that the program was built without its image.
var ErrAbsent = errors.New("built without the hello image: run make build")

// Import makes sure that the store has the image that this program carries; it costs next to nothing when it has. The
// error is ErrAbsent when the program carries none.
func Import(ctx context.Context, store *image.Store) error {
	archive, err := artifacts.Open(archivePath)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrAbsent
	}
	if err != nil {
		return fmt.Errorf("open builtin image: %w", err)
	}
	defer archive.Close()
	carried, err := manifestDigest(archive)
	if err != nil {
		return fmt.Errorf("read builtin image: %w", err)
	}
	if has, err := store.Has(ctx, HelloName, carried); err != nil || has {
		return err
	}
	archive, err = artifacts.Open(archivePath)
	if err != nil {
		return fmt.Errorf("open builtin image: %w", err)
	}
	defer archive.Close()
	list, err := store.Import(ctx, archive, image.ImportOptions{Name: HelloName})
	if err != nil {
		return fmt.Errorf("import builtin image: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Imported builtin image", "image", HelloName, "id", ids(list))
	return nil
}

func ids(list []*runtimeapi.Image) []string {
	var out []string
	for _, img := range list {
		out = append(out, img.Id)
	}
	return out
}

// manifestDigest reads the index, which the build puts first into the archive.
func manifestDigest(archive io.Reader) (string, error) {
	tr := tar.NewReader(archive)
	h, err := tr.Next()
	if err != nil {
		return "", err
	}
	if h.Name != ocispec.ImageIndexFile {
		return "", fmt.Errorf("the archive begins with %s, not %s", h.Name, ocispec.ImageIndexFile)
	}
	var index ocispec.Index
	if err := json.NewDecoder(io.LimitReader(tr, 1<<20)).Decode(&index); err != nil {
		return "", fmt.Errorf("decode index: %w", err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("the archive holds %d images, not one", len(index.Manifests))
	}
	return index.Manifests[0].Digest.String(), nil
}
