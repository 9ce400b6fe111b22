package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImportOptions say how an archive's images are named and kept.
type ImportOptions struct {
	// Name for an archive of one image that carries no name. "" leaves it known by its ID alone.
	Name string
}

// Import reads an archive as `docker save` or an OCI tool writes it (docker's own layout or OCI's, layers compressed or
// not; the archive itself plain, gzip or zstd) and returns its images. Names are normalised as docker does; a name that another
// image has moves. The images are pinned, there being no registry to have them back from. Nothing stays of an archive that fails.
func (s *Store) Import(ctx context.Context, archive io.Reader, opts ImportOptions) ([]*runtimeapi.Image, error) {
	s.importing.Lock()
	defer s.importing.Unlock()
	// A store that closes ends imports, whoever calls them.
	ctx, cancel := context.WithCancel(scope(ctx))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if s.ctx.Err() != nil {
		return nil, errors.New("import image: the store is closed")
	}
	lease, err := s.leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		return nil, fmt.Errorf("create lease: %w", err)
	}
	ids, err := s.importLeased(leases.WithLease(ctx, lease.ID), archive, opts)
	if delErr := s.leases.Delete(context.WithoutCancel(ctx), lease); delErr != nil {
		err = errors.Join(err, fmt.Errorf("end lease: %w", delErr))
	}
	s.gc.request()
	if err != nil {
		kind := kindOf(err)
		return nil, &Error{Kind: kind, text: fmt.Sprintf("failed to import image archive: %v", err), err: err}
	}
	var list []*runtimeapi.Image
	for _, id := range ids {
		if r, err := s.index.get(id); err == nil && r != nil {
			list = append(list, r.cri())
		}
	}
	return list, nil
}

func (s *Store) importLeased(ctx context.Context, r io.Reader, opts ImportOptions) ([]string, error) {
	if err := s.abortImports(ctx); err != nil {
		return nil, err
	}
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, fmt.Errorf("detect compression: %w", err)
	}
	defer plain.Close()
	top, err := archive.ImportIndex(ctx, s.blobs, plain)
	if err != nil {
		return nil, errors.Join(err, s.abortImports(ctx))
	}
	data, err := content.ReadBlob(ctx, s.blobs, top)
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return nil, fmt.Errorf("decode index: %w", err)
	}
	var ids []string
	for _, target := range idx.Manifests {
		if !images.IsManifestType(target.MediaType) && !images.IsIndexType(target.MediaType) {
			continue
		}
		refs, err := importNames(target, len(idx.Manifests), opts.Name)
		if err != nil {
			return nil, err
		}
		target.Annotations = nil
		if err := s.unpack(ctx, target, nil); err != nil {
			return nil, err
		}
		id, err := s.name(ctx, target, refs, true)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("the archive holds no image")
	}
	return ids, nil
}

// abortImports clears what the importer of a failed archive left: it names its ingests by archive member, and would go on
// with another archive's bytes.
func (s *Store) abortImports(ctx context.Context) error {
	statuses, err := s.blobs.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list ingests: %w", err)
	}
	for _, status := range statuses {
		if !strings.HasPrefix(status.Ref, "tar-") {
			continue
		}
		if err := s.blobs.Abort(ctx, status.Ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("abort ingest %s: %w", status.Ref, err)
		}
	}
	return nil
}

// importNames finds the names of one of n images: a full one in containerd's annotation, or a name or only a tag in OCI's.
func importNames(target ocispec.Descriptor, n int, fallback string) ([]string, error) {
	name := target.Annotations[images.AnnotationImageName]
	if name == "" {
		// A tag alone says nothing about the repository.
		if ref := target.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(ref, "/:") {
			name = ref
		}
	}
	if name == "" && n == 1 {
		name = fallback
	}
	if name == "" {
		return nil, nil
	}
	named, err := parse(name)
	if err != nil {
		return nil, err
	}
	return []string{named.String()}, nil
}
