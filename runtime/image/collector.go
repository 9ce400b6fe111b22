package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// collectDelay gathers the removals of a burst (many Pods deleted at once) into one collection.
	collectDelay = time.Second
	// resumeFor is how long the parts of a failed pull are kept for the next attempt to go on from.
	resumeFor = time.Hour
)

// collector runs garbage collections: soon after a request, and never two at a time.
type collector struct {
	once  func(ctx context.Context) error
	wake  chan struct{}
	end   context.CancelFunc
	ended chan struct{}
	mu    sync.Mutex // held while collecting
}

func startCollector(ctx context.Context, once func(context.Context) error) *collector {
	ctx, end := context.WithCancel(ctx)
	c := &collector{once: once, wake: make(chan struct{}, 1), end: end, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.run(ctx)
	}()
	c.request()
	return c
}

func (c *collector) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		timer := time.NewTimer(collectDelay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		// A failed collection has been logged by once; what it left is garbage for the next.
		_ = c.now(ctx)
	}
}

// request has garbage collected soon. It never blocks.
func (c *collector) request() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// now collects and returns when it is done.
func (c *collector) now(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.once(ctx)
}

func (c *collector) stop() {
	c.end()
	<-c.ended
}

// CollectGarbage removes what no image, container or pull in progress needs, and returns when the disk space is free.
func (s *Store) CollectGarbage(ctx context.Context) error { return s.gc.now(scope(ctx)) }

func (s *Store) collectOnce(ctx context.Context) error {
	var errs []error
	if !s.gcPrimed {
		if err := s.markDirty(ctx); err != nil {
			errs = append(errs, err)
		} else {
			s.gcPrimed = true
		}
	}
	if err := s.expireLeases(ctx); err != nil {
		errs = append(errs, err)
	}
	// First the containers, which hold layers.
	if err := s.snapshots.CollectGarbage(ctx); err != nil {
		errs = append(errs, err)
	}
	if _, err := s.meta.GarbageCollect(ctx); err != nil {
		errs = append(errs, fmt.Errorf("collect image garbage: %w", err))
	}
	err := errors.Join(errs...)
	if err != nil && ctx.Err() == nil {
		s.logger().Error(err, "Image garbage collection failed")
	}
	return err
}

// markDirty makes the next collection compare the disk with the database even though nothing was removed: a process that
// was killed may have left files that the database does not know. The database offers no call for it, so we remove
// something from each of its two stores.
func (s *Store) markDirty(ctx context.Context) error {
	lease, err := s.leases.Create(ctx, leases.WithID("prime"))
	if err != nil {
		return fmt.Errorf("create lease to start garbage collection: %w", err)
	}
	held := leases.WithLease(ctx, lease.ID)
	err = func() error {
		const key = "prime"
		if _, err := s.layers.Prepare(held, key, ""); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
		if err := s.layers.Remove(held, key); err != nil {
			return err
		}
		data := key + " " + time.Now().String()
		desc := ocispec.Descriptor{MediaType: "text/plain", Size: int64(len(data)), Digest: digestOf(data)}
		if err := content.WriteBlob(held, s.blobs, key, strings.NewReader(data), desc); err != nil {
			return err
		}
		return s.blobs.Delete(held, desc.Digest)
	}()
	if delErr := s.leases.Delete(ctx, lease); delErr != nil {
		err = errors.Join(err, delErr)
	}
	if err != nil {
		return fmt.Errorf("start garbage collection: %w", err)
	}
	return nil
}

// dropLeases ends the leases of a predecessor: nothing is being pulled when the store opens.
func (s *Store) dropLeases() error {
	all, err := s.leases.List(s.ctx)
	if err != nil {
		return fmt.Errorf("list leases of interrupted pulls: %w", err)
	}
	for _, lease := range all {
		if err := s.leases.Delete(s.ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop lease of interrupted pull %s: %w", lease.ID, err)
		}
	}
	return nil
}

// expireLeases gives up the parts of pulls that failed long ago and were not tried again.
func (s *Store) expireLeases(ctx context.Context) error {
	for _, id := range s.flights.forget(time.Now().Add(-resumeFor)) {
		if err := s.leases.Delete(ctx, leases.Lease{ID: id}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop lease of failed pull %s: %w", id, err)
		}
	}
	return nil
}
