package image

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What one image may ask of a node's memory.
const (
	maxMetadata = 4 << 20 // bytes of a manifest, index or config
	maxLayers   = 127     // as docker; overlay has a limit of 500
	maxUser     = 256     // characters of the config's User
)

// boundedContent refuses to hand out documents that would be read into memory whole and are too large for that.
type boundedContent struct{ content.Store }

func (b boundedContent) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := b.Store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	if isDocument(desc.MediaType) && ra.Size() > maxMetadata {
		size := ra.Size()
		return nil, closeAfter(ra, tooLarge(desc, size))
	}
	return ra, nil
}

func closeAfter(c io.Closer, err error) error {
	if closeErr := c.Close(); closeErr != nil {
		return fmt.Errorf("%w (and close: %v)", err, closeErr)
	}
	return err
}

func isDocument(mediaType string) bool {
	return images.IsManifestType(mediaType) || images.IsIndexType(mediaType) || images.IsConfigType(mediaType)
}

func tooLarge(desc ocispec.Descriptor, size int64) error {
	text := fmt.Sprintf("%s %s has %d bytes, more than %d are not accepted", desc.MediaType, desc.Digest, size, maxMetadata)
	return &Error{Kind: Refused, text: text}
}

// checkDescriptor is a handler that comes before each fetch.
func checkDescriptor(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if isDocument(desc.MediaType) && desc.Size > maxMetadata {
		return nil, tooLarge(desc, desc.Size)
	}
	return nil, nil
}

// checkLayers refuses a manifest before its layers are fetched when there are too many.
func checkLayers(children images.HandlerFunc) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		list, err := children(ctx, desc)
		// One of them is the config.
		if err == nil && images.IsManifestType(desc.MediaType) && len(list)-1 > maxLayers {
			return nil, &Error{Kind: Refused, text: fmt.Sprintf("%s has %d layers, more than %d are not accepted", desc.Digest, len(list)-1, maxLayers)}
		}
		return list, err
	}
}

// checkConfig refuses image configs that no honest tool writes.
func checkConfig(id string, config *ocispec.Image) error {
	if n := len(config.RootFS.DiffIDs); n > maxLayers {
		return &Error{Kind: Refused, text: fmt.Sprintf("image %s has %d layers, more than %d are not accepted", id, n, maxLayers)}
	}
	if n := len(config.Config.User); n > maxUser {
		return &Error{Kind: Refused, text: fmt.Sprintf("image %s names a user of %d characters, more than %d are not accepted", id, n, maxUser)}
	}
	return nil
}

// stallFetcher ends a pull whose registry keeps the connection but sends nothing. The time-out starts anew with each read.
type stallFetcher struct {
	remotes.Fetcher
	timeout time.Duration
}

func (f stallFetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(f.timeout, func() {
		text := fmt.Sprintf("no data received for %s while fetching %s", f.timeout, desc.Digest)
		cancel(&Error{Kind: RegistryUnavailable, text: text})
	})
	rc, err := f.Fetcher.Fetch(ctx, desc)
	if err != nil {
		timer.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	return wrapStall(ctx, rc, timer, f.timeout, cancel), nil
}

// stallReader keeps the seeking of the reader that it wraps: pulls resume by it.
type stallReader struct {
	ctx     context.Context
	rc      io.ReadCloser
	timer   *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

type stallReadSeeker struct {
	*stallReader
	io.Seeker
}

func wrapStall(ctx context.Context, rc io.ReadCloser, timer *time.Timer, timeout time.Duration, cancel context.CancelCauseFunc) io.ReadCloser {
	r := &stallReader{ctx: ctx, rc: rc, timer: timer, timeout: timeout, cancel: cancel}
	if seeker, ok := rc.(io.Seeker); ok {
		return stallReadSeeker{r, seeker}
	}
	return r
}

func (r *stallReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.timeout)
	n, err := r.rc.Read(p)
	r.timer.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (r *stallReader) Close() error {
	r.timer.Stop()
	r.cancel(nil)
	return r.rc.Close()
}
