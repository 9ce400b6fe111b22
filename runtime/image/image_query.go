package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is what a container needs of its image. The config is the image author's: bounded in size, else untrusted.
type Image struct {
	ID      string   // "sha256:..."
	ChainID string   // parent for snapshot.Snapshots.Prepare; "" for an image without layers
	Ref     string   // a name of the image: its first tag, else digest, else ID
	Digests []string // "repository@sha256:...", of each repository that it came from
	Config  ocispec.ImageConfig
	// Platform fields and history for verbose status.
	Spec ocispec.Image
}

// Resolve finds the image by ID or name. When the node does not have it the error's Kind is NotFound.
func (s *Store) Resolve(ctx context.Context, name string) (*Image, error) {
	r, err := s.index.get(name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, &Error{Kind: NotFound, text: fmt.Sprintf("image %q: not found", name)}
	}
	config, err := s.readConfig(scope(ctx), r.config)
	if err != nil {
		return nil, err
	}
	img := &Image{ID: r.id, ChainID: identity.ChainID(config.RootFS.DiffIDs).String(), Ref: r.id, Config: config.Config, Spec: *config}
	tags, digests := splitRefs(r.refs)
	img.Digests = digests
	if all := append(tags, digests...); len(all) > 0 {
		img.Ref = all[0]
	}
	return img, nil
}

// DigestFor is the digest by which the repository of a name, as a user says it, knows the image; else that of another
// repository, else the ID.
func (i *Image) DigestFor(name string) string {
	if named, err := reference.ParseDockerRef(name); err == nil {
		for _, d := range i.Digests {
			if strings.HasPrefix(d, named.Name()+"@") {
				return d
			}
		}
	}
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// ListImages returns all images, or the one that the filter names.
func (s *Store) ListImages(_ context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if name := filter.GetImage().GetImage(); name != "" {
		r, err := s.index.get(name)
		if err != nil || r == nil {
			return nil, err
		}
		return []*runtimeapi.Image{r.cri()}, nil
	}
	records := s.index.list()
	list := make([]*runtimeapi.Image, 0, len(records))
	for _, r := range records {
		list = append(list, r.cri())
	}
	return list, nil
}

// ImageStatus returns the image that spec names, by ID or name; a response without an image when the node lacks it.
func (s *Store) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	r, err := s.index.get(spec.GetImage())
	if err != nil {
		return nil, err
	}
	if r == nil {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	response := &runtimeapi.ImageStatusResponse{Image: r.cri()}
	if !verbose {
		return response, nil
	}
	config, err := s.readConfig(scope(ctx), r.config)
	if err != nil {
		return nil, err
	}
	info, err := json.Marshal(struct {
		ChainID   string         `json:"chainID"`
		ImageSpec *ocispec.Image `json:"imageSpec"`
	}{r.chainID, config})
	if err != nil {
		return nil, fmt.Errorf("encode info of image %s: %w", r.id, err)
	}
	response.Info = map[string]string{"info": string(info)}
	return response, nil
}

// RemoveImage removes the image that spec names, under all its names. An image that is absent is no error. Containers
// that run from it keep their layers.
func (s *Store) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	ctx = scope(ctx)
	r, err := s.index.get(spec.GetImage())
	if err != nil || r == nil {
		return err
	}
	if err := s.removeNames(ctx, r.id); err != nil {
		return err
	}
	return s.gc.now(ctx)
}

func (s *Store) removeNames(ctx context.Context, id string) error {
	s.naming.Lock()
	defer s.naming.Unlock()
	r, err := s.index.get(id)
	if err != nil || r == nil {
		return err
	}
	for _, ref := range r.refs {
		if err := s.names.Delete(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", ref, err)
		}
		s.index.remove(ref)
	}
	return nil
}

// ImageFsInfo measures what images and containers take on disk. Cost: it walks the writable layers of all containers.
func (s *Store) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	ctx = scope(ctx)
	var bytes, inodes int64
	var keys []string
	err := s.layers.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, key := range keys {
		usage, err := s.layers.Usage(ctx, key)
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("measure snapshot %s: %w", key, err)
		}
		bytes += usage.Size
		inodes += usage.Inodes
	}
	ids, err := s.snapshots.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		usage, err := s.snapshots.Usage(ctx, id)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		bytes += usage.Bytes
		inodes += usage.Inodes
	}
	err = s.blobs.Walk(ctx, func(info content.Info) error {
		bytes += info.Size
		inodes++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measure image content: %w", err)
	}
	usage := &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: filepath.Join(s.cfg.Dir, snapshotter)},
		UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(bytes)},
		InodesUsed: &runtimeapi.UInt64Value{Value: uint64(inodes)},
	}
	list := []*runtimeapi.FilesystemUsage{usage}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: list, ContainerFilesystems: list}, nil
}

// Has says whether the node has, under the given name and unpacked, the image with the manifest or index of that digest.
func (s *Store) Has(ctx context.Context, name, targetDigest string) (bool, error) {
	ref, err := Normalize(name)
	if err != nil {
		return false, err
	}
	// A damaged image is not in the index, though its name is in the database.
	if r, err := s.index.get(ref); err != nil || r == nil {
		return false, err
	}
	img, err := s.names.Get(scope(ctx), ref)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up image %s: %w", ref, err)
	}
	return img.Target.Digest.String() == targetDigest, nil
}
