package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// record is what is kept in memory of an image. It is never changed, only replaced.
type record struct {
	id      string // digest of the config
	chainID string // the unpacked layers; "" for an image without
	config  ocispec.Descriptor
	size    int64    // bytes as in the registry: manifest, config, layers
	refs    []string // sorted
	pinned  bool
	user    string // of the config, without the group
}

// index mirrors the names in the database, for answers without disk access. Its writers hold Store.naming.
type index struct {
	mu    sync.RWMutex
	byID  map[string]*record
	byRef map[string]string // name -> image ID
}

// get finds an image by ID, by normalised name, or by a name to normalise; nil when there is none.
func (x *index) get(name string) (*record, error) {
	id, isID := imageID(name)
	x.mu.RLock()
	defer x.mu.RUnlock()
	if isID {
		if r := x.byID[id]; r != nil {
			return r, nil
		}
	}
	if id, ok := x.byRef[name]; ok {
		return x.byID[id], nil
	}
	ref, err := Normalize(name)
	if err != nil {
		if isID {
			return nil, nil
		}
		return nil, err
	}
	return x.byID[x.byRef[ref]], nil
}

func (x *index) list() []*record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*record, 0, len(x.byID))
	for _, r := range x.byID {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *record) int { return strings.Compare(a.id, b.id) })
	return all
}

// put lets ref name the image of r, and no longer the one it named before.
func (x *index) put(r *record, ref string, pinned bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(ref)
	merged := *r
	if old := x.byID[r.id]; old != nil {
		merged.refs, merged.pinned = old.refs, old.pinned
	}
	merged.refs = append(slices.Clone(merged.refs), ref)
	slices.Sort(merged.refs)
	merged.refs = slices.Compact(merged.refs)
	merged.pinned = merged.pinned || pinned
	x.byID[r.id] = &merged
	x.byRef[ref] = r.id
}

func (x *index) remove(ref string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(ref)
}

func (x *index) drop(ref string) {
	old := x.byID[x.byRef[ref]]
	delete(x.byRef, ref)
	if old == nil {
		return
	}
	if len(old.refs) == 1 {
		delete(x.byID, old.id)
		return
	}
	rest := *old
	rest.refs = slices.DeleteFunc(slices.Clone(old.refs), func(r string) bool { return r == ref })
	x.byID[old.id] = &rest
}

// readIndex builds the index from the database. A name whose content or layers are damaged is reported and left out, which
// makes it absent: the next pull repairs it.
func (s *Store) readIndex() (*index, error) {
	x := &index{byID: map[string]*record{}, byRef: map[string]string{}}
	all, err := s.names.List(s.ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	for _, img := range all {
		r, err := s.describe(s.ctx, img.Target)
		if err != nil {
			s.logger().Error(err, "Image is damaged and must be pulled again", "image", img.Name)
			continue
		}
		x.put(r, img.Name, img.Labels[pinnedLabel] != "")
	}
	return x, nil
}

// describe reads the manifest and config for this platform under target and checks that its layers are unpacked.
func (s *Store) describe(ctx context.Context, target ocispec.Descriptor) (*record, error) {
	manifest, err := images.Manifest(ctx, s.blobs, target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", target.Digest, err)
	}
	config, err := s.readConfig(ctx, manifest.Config)
	if err != nil {
		return nil, err
	}
	r := &record{
		id:      manifest.Config.Digest.String(),
		config:  manifest.Config,
		chainID: identity.ChainID(config.RootFS.DiffIDs).String(),
		size:    target.Size + manifest.Config.Size,
		user:    strings.SplitN(config.Config.User, ":", 2)[0],
	}
	for _, layer := range manifest.Layers {
		r.size += layer.Size
	}
	if r.chainID != "" {
		if _, err := s.layers.Stat(ctx, r.chainID); err != nil {
			return nil, fmt.Errorf("find unpacked layers of image %s: %w", r.id, err)
		}
	}
	return r, nil
}

func (s *Store) readConfig(ctx context.Context, desc ocispec.Descriptor) (*ocispec.Image, error) {
	data, err := content.ReadBlob(ctx, s.blobs, desc)
	if err != nil {
		return nil, fmt.Errorf("read config of image %s: %w", desc.Digest, err)
	}
	config := &ocispec.Image{}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, &Error{Kind: Refused, text: fmt.Sprintf("decode config of image %s: %v", desc.Digest, err), err: err}
	}
	return config, checkConfig(desc.Digest.String(), config)
}

// cri is the record as the CRI shows it.
func (r *record) cri() *runtimeapi.Image {
	tags, digests := splitRefs(r.refs)
	img := &runtimeapi.Image{
		Id:          r.id,
		RepoTags:    tags,
		RepoDigests: digests,
		Size:        uint64(r.size),
		Pinned:      r.pinned,
		Spec:        &runtimeapi.ImageSpec{Image: r.id},
	}
	if uid, err := strconv.ParseInt(r.user, 10, 64); err == nil {
		img.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		img.Username = r.user
	}
	return img
}
