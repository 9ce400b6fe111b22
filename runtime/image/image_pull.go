package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage makes sure that the node has what the registry has now under the name in spec, and returns the image's ID.
// Layers that the node has are not fetched again; an attempt after a failed one goes on where that stopped. Concurrent
// calls for one name share the work. Errors of type *Error say what can be done about them.
func (s *Store) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	named, err := parse(spec.GetImage())
	if err != nil {
		return "", err
	}
	if reference.Domain(named) == LocalDomain {
		return s.localImage(named.String())
	}
	key := fmt.Sprintf("%s %x", named, sha256.Sum256([]byte(auth.String())))
	id, err := s.flights.do(ctx, s.ctx, key, func(ctx context.Context) (string, error) {
		lease := "pull-" + digestOf(key).Encoded()
		// A pull that all its callers gave up may still be ending.
		if err := s.unpacking.Lock(ctx, lease); err != nil {
			return "", err
		}
		defer s.unpacking.Unlock(lease)
		return s.pull(ctx, lease, named, auth)
	})
	if err != nil {
		return "", pullError(named.String(), err)
	}
	return id, nil
}

// localImage answers the pull of an image that no registry has.
func (s *Store) localImage(ref string) (string, error) {
	r, err := s.index.get(ref)
	if err != nil {
		return "", err
	}
	if r == nil {
		err := &Error{Kind: NotFound, text: fmt.Sprintf("%s comes with Peapod or is imported, never pulled, and this node does not have it", ref)}
		return "", pullError(ref, err)
	}
	return r.id, nil
}

// pull is one pull under a lease, which stays after a failure for the next attempt to resume from.
func (s *Store) pull(ctx context.Context, lease string, named reference.Named, auth *runtimeapi.AuthConfig) (string, error) {
	ref := named.String()
	started := time.Now()
	if _, err := s.leases.Create(ctx, leases.WithID(lease)); err != nil && !errdefs.IsAlreadyExists(err) {
		return "", fmt.Errorf("create lease: %w", err)
	}
	s.flights.resumed(lease)
	id, err := s.pullLeased(leases.WithLease(ctx, lease), named, auth)
	if err != nil {
		s.flights.keep(lease)
		return "", err
	}
	// The image has its name: a caller that gives up now changes nothing.
	if err := s.leases.Delete(context.WithoutCancel(ctx), leases.Lease{ID: lease}); err != nil && !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("end lease: %w", err)
	}
	// The compressed layers have served.
	s.gc.request()
	s.logger().Info("Pulled image", "image", ref, "id", id, "duration", time.Since(started))
	return id, nil
}

func (s *Store) pullLeased(ctx context.Context, named reference.Named, auth *runtimeapi.AuthConfig) (string, error) {
	ref := named.String()
	resolver, closeIdle, err := s.resolver(ctx, reference.Domain(named), auth)
	if err != nil {
		return "", err
	}
	defer closeIdle()
	name, target, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("failed to resolve reference %q: %w", ref, err)
	}
	if !images.IsManifestType(target.MediaType) && !images.IsIndexType(target.MediaType) {
		return "", &Error{Kind: Refused, text: fmt.Sprintf("%s is a %q, not an image", ref, target.MediaType)}
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return "", fmt.Errorf("failed to get fetcher for %q: %w", ref, err)
	}
	fetch := remotes.FetchHandler(s.blobs, stallFetcher{fetcher, s.cfg.PullStallTimeout})
	if err := s.unpack(ctx, target, fetch); err != nil {
		return "", err
	}
	refs := []string{digestRef(named, target.Digest)}
	if _, tagged := named.(reference.Tagged); tagged {
		refs = append(refs, ref)
	}
	return s.name(ctx, target, refs, false)
}

// unpack walks the image under target with fetch (nil when its content is here already) and unpacks its layers for this
// platform. The caller holds a lease. Layers are applied in order, each while the next ones are still on their way.
func (s *Store) unpack(ctx context.Context, target ocispec.Descriptor, fetch images.Handler) error {
	u, err := unpack.NewUnpacker(ctx, s.blobs,
		unpack.WithUnpackPlatform(unpack.Platform{
			Platform:       s.platform,
			SnapshotterKey: snapshotter,
			Snapshotter:    s.layers,
			Applier:        directApplier{apply.NewFileSystemApplier(s.blobs)},
		}),
		unpack.WithLimiter(s.downloads),
		unpack.WithDuplicationSuppressor(&s.unpacking))
	if err != nil {
		return fmt.Errorf("start unpacking: %w", err)
	}
	// Compressed layers get no reference from their manifest: once unpacked they are garbage.
	children := images.SetChildrenMappedLabels(s.blobs, images.ChildrenHandler(s.blobs), images.ChildGCLabelsFilterLayers)
	children = images.LimitManifests(images.FilterPlatforms(children, s.platform), s.platform, 1)
	handlers := []images.Handler{images.HandlerFunc(checkDescriptor)}
	if fetch != nil {
		handlers = append(handlers, fetch)
	}
	handlers = append(handlers, checkLayers(children))
	dispatchErr := images.Dispatch(ctx, u.Unpack(images.Handlers(handlers...)), nil, target)
	_, err = u.Wait()
	return errors.Join(dispatchErr, err)
}

// name makes the image under target known by refs. From here on it survives restarts.
func (s *Store) name(ctx context.Context, target ocispec.Descriptor, refs []string, pinned bool) (string, error) {
	r, err := s.describe(ctx, target)
	if err != nil {
		return "", err
	}
	// The names are synced to disk by their database; what they name must be there before.
	if err := syncDir(s.cfg.Dir); err != nil {
		return "", err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	if len(refs) == 0 {
		refs = []string{r.id}
	}
	for _, ref := range refs {
		img := images.Image{Name: ref, Target: target}
		if pinned {
			img.Labels = map[string]string{pinnedLabel: "true"}
		}
		_, err := s.names.Create(ctx, img)
		if errdefs.IsAlreadyExists(err) {
			fields := []string{"target"}
			if pinned {
				fields = append(fields, "labels")
			}
			_, err = s.names.Update(ctx, img, fields...)
		}
		if err != nil {
			return "", fmt.Errorf("name image %s: %w", ref, err)
		}
		s.index.put(r, ref, pinned)
	}
	return r.id, nil
}

// directApplier unpacks the lowest layer straight into its directory: the library would mount that on a temporary place,
// which a killed process leaves behind.
type directApplier struct{ diff.Applier }

func (a directApplier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		mounts = []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + mounts[0].Source}}}
	}
	return a.Applier.Apply(ctx, desc, mounts, opts...)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync image files: %w", err)
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return errors.Join(fmt.Errorf("sync image files: %w", err), f.Close())
	}
	return f.Close()
}

func digestOf(text string) digest.Digest { return digest.FromString(text) }

var _ content.Store = boundedContent{}
