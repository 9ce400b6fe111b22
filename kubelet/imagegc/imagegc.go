// Package imagegc keeps images from filling the disk: when it gets full, those
// that no container uses go, longest unused first.
package imagegc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/metrics"
)

// What Kubernetes does by default.
const (
	DefaultHighPercent = 85
	DefaultLowPercent  = 80
)

// Config is what a Collector is made from. What is not called optional is
// required.
type Config struct {
	NodeName string
	Runtime  internalapi.RuntimeService
	Images   internalapi.ImageManagerService
	// Pods are those of the node: the images of their image volumes are in use.
	Pods func() []*v1.Pod
	// Room tells what is free on the images' file system, and its size, in bytes.
	Room     func(context.Context) (available, capacity int64, err error)
	Recorder func() record.EventRecorder
	// HighPercent is how full the disk may get, 100 for as full as it likes;
	// LowPercent is how full it is after a collection. HighPercent 0 means both
	// defaults.
	HighPercent, LowPercent int64
	// MinAge is how long an image must have been here before it may go; 0 means
	// 2 min.
	MinAge time.Duration
	// Every is how often the disk is looked at; 0 means 5 min.
	Every time.Duration
	Clock clock.WithTicker // nil means the real one
	// Metrics count the images that go; optional.
	Metrics *metrics.Set
}

// Collector collects images.
type Collector struct {
	cfg Config

	mu     sync.Mutex // one collection at a time
	images map[string]*image
	failed bool
}

// image is what is remembered of an image.
type image struct {
	detected time.Time // zero: before this process
	used     time.Time
	size     int64
	pinned   bool
}

// New makes a Collector.
func New(cfg Config) (*Collector, error) {
	if cfg.Runtime == nil || cfg.Images == nil || cfg.Pods == nil || cfg.Room == nil || cfg.Recorder == nil {
		return nil, errors.New("make image collector: runtime, images, pods, room and recorder are required")
	}
	if cfg.HighPercent == 0 {
		cfg.HighPercent, cfg.LowPercent = DefaultHighPercent, DefaultLowPercent
	}
	if cfg.LowPercent < 0 || cfg.LowPercent >= cfg.HighPercent || cfg.HighPercent > 100 {
		return nil, fmt.Errorf("make image collector: thresholds must be 0 <= low (%d) < high (%d) <= 100", cfg.LowPercent, cfg.HighPercent)
	}
	if cfg.MinAge == 0 {
		cfg.MinAge = 2 * time.Minute
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Collector{cfg: cfg, images: map[string]*image{}}, nil
}

// Run collects when needed until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	c.mu.Lock()
	_, err := c.detect(ctx, time.Time{})
	c.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Finding the images of this node failed")
	}
	t := c.cfg.Clock.NewTicker(c.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Image garbage collection failed")
		}
	}
}

// Thresholds are how full in percent the disk may get, and is after a collection.
func (c *Collector) Thresholds() (high, low int64) { return c.cfg.HighPercent, c.cfg.LowPercent }

// Collect frees disk if it is fuller than it may be, down to the low threshold.
func (c *Collector) Collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.collect(ctx)
	if err == nil {
		c.failed = false
		return nil
	}
	// Once may be by chance; an administrator should hear of the second time.
	if c.failed && ctx.Err() == nil {
		c.event("ImageGCFailed", err.Error())
	}
	c.failed = true
	return err
}

func (c *Collector) collect(ctx context.Context) error {
	// Uses are noted at every look, so that it is known what was used when.
	inUse, err := c.detect(ctx, c.cfg.Clock.Now())
	if err != nil {
		return err
	}
	available, capacity, err := c.cfg.Room(ctx)
	if err != nil {
		return err
	}
	if capacity == 0 {
		err := errors.New("invalid capacity 0 on image filesystem")
		c.event("InvalidDiskCapacity", err.Error())
		return err
	}
	available = min(available, capacity)
	used := 100 - available*100/capacity
	if used < c.cfg.HighPercent || c.cfg.HighPercent == 100 {
		return nil
	}
	want := capacity*(100-c.cfg.LowPercent)/100 - available
	klog.FromContext(ctx).Info("Disk usage on image filesystem is over the high threshold, trying to free bytes down to the low threshold",
		"usage", used, "highThreshold", c.cfg.HighPercent, "lowThreshold", c.cfg.LowPercent, "bytes", want)
	freed, err := c.free(ctx, want, inUse)
	if err != nil {
		return err
	}
	if freed < want {
		//lint:ignore ST1005 it is the text of Kubernetes' event
		err := fmt.Errorf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed)
		c.event("FreeDiskSpaceFailed", err.Error())
		return err
	}
	return nil
}

// RemoveUnused removes every image that no container uses, whatever room there
// is: the node is short of disk.
func (c *Collector) RemoveUnused(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	inUse, err := c.detect(ctx, c.cfg.Clock.Now())
	if err != nil {
		return err
	}
	_, err = c.free(ctx, 1<<62, inUse)
	return err
}

// detect brings the memory of images up to date and returns those in use. What
// is new was detected at the given time.
func (c *Collector) detect(ctx context.Context, at time.Time) (map[string]bool, error) {
	list, err := c.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	names, err := c.names(ctx)
	if err != nil {
		return nil, err
	}
	inUse, here := map[string]bool{}, map[string]bool{}
	now := c.cfg.Clock.Now()
	for _, img := range list {
		here[img.Id] = true
		known := c.images[img.Id]
		if known == nil {
			known = &image{detected: at}
			c.images[img.Id] = known
		}
		known.size, known.pinned = int64(img.Size), img.Pinned
		if usedBy(img, names) {
			inUse[img.Id] = true
			known.used = now
		}
	}
	for id := range c.images {
		if !here[id] {
			delete(c.images, id)
		}
	}
	return inUse, nil
}

// names are all names and IDs by which images are used: of every container,
// also of those that ended, and of volumes that are images.
func (c *Collector) names(ctx context.Context) (map[string]bool, error) {
	containers, err := c.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	names := map[string]bool{}
	for _, k := range containers {
		names[k.GetImageRef()], names[k.GetImageId()], names[k.GetImage().GetImage()] = true, true, true
	}
	for _, p := range c.cfg.Pods() {
		if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
			continue
		}
		for i := range p.Spec.Volumes {
			v := p.Spec.Volumes[i].Image
			if v == nil || v.Reference == "" {
				continue
			}
			// A volume's image is named as its user wrote it: the runtime knows its ID.
			status, err := c.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: v.Reference}, false)
			if err != nil {
				return nil, fmt.Errorf("find image %s: %w", v.Reference, err)
			}
			names[status.GetImage().GetId()] = true
		}
	}
	delete(names, "")
	return names, nil
}

func usedBy(img *runtimeapi.Image, names map[string]bool) bool {
	if names[img.Id] {
		return true
	}
	for _, list := range [][]string{img.RepoTags, img.RepoDigests} {
		for _, n := range list {
			if names[n] {
				return true
			}
		}
	}
	return false
}

// free removes images that are not in use, longest unused first, until enough
// is freed. An image that cannot be removed does not keep the others.
func (c *Collector) free(ctx context.Context, want int64, inUse map[string]bool) (int64, error) {
	now := c.cfg.Clock.Now()
	var ids []string
	for id, img := range c.images {
		if !inUse[id] && !img.pinned && now.Sub(img.detected) >= c.cfg.MinAge {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		x, y := c.images[a], c.images[b]
		if d := x.used.Compare(y.used); d != 0 {
			return d
		}
		if d := x.detected.Compare(y.detected); d != 0 {
			return d
		}
		return strings.Compare(a, b) // the same choice at each look
	})
	var freed int64
	var errs []error
	for _, id := range ids {
		if freed >= want {
			break
		}
		if err := c.cfg.Images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: id}); err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", id, err))
			continue
		}
		klog.FromContext(ctx).Info("Removed image to free bytes", "image", id, "bytes", c.images[id].size)
		c.cfg.Metrics.ImageCollected("space")
		freed += c.images[id].size
		delete(c.images, id)
	}
	if len(errs) > 0 {
		return freed, fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", want, freed, errors.Join(errs...))
	}
	return freed, nil
}

func (c *Collector) event(reason, message string) {
	ref := &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: c.cfg.NodeName, UID: types.UID(c.cfg.NodeName)}
	c.cfg.Recorder().Event(ref, v1.EventTypeWarning, reason, message)
}
