// Package stats measures what a node, its Pods and their containers use: the
// Summary API and the metrics that are made of it. Everything is measured when
// somebody asks, shared for a short while with whoever asks next, and nothing
// is measured while nobody does. Containers' usage comes from CRI, the node's
// from /proc, the rest from file systems.
package stats

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/pod"
)

// Config is what a Provider is made from. What is not called optional is
// required.
type Config struct {
	NodeName string
	// Pods tells Pods' volumes; statistics of Pods it does not know are left out.
	Pods func() pod.Lookup
	// Runtime and Images are the container runtime.
	Runtime internalapi.RuntimeService
	Images  internalapi.ImageManagerService
	// RootDir is the kubelet's, with <RootDir>/pods/<uid>/volumes; its file
	// system is the node's.
	RootDir string
	// LogDir holds <namespace>_<name>_<uid>/<container>/*.log.
	LogDir string
	// ImageDir is on the images' file system; optional: without it the runtime
	// is asked, once, which may take it a walk over all images.
	ImageDir string
	// Measure returns how full a volume of a Pod is that lies elsewhere, nil if that is not known; optional.
	Measure func(ctx context.Context, uid types.UID, volume string) *statsapi.FsStats
	// Counted serves what the kubelet counts as it happens, as a part of /metrics; optional.
	Counted http.Handler
	// Volumes counts the volumes of Pods by plugin: those that they have, and those that are set up; optional.
	Volumes func([]*v1.Pod) (desired, actual map[string]int)
	// Certificates are those of the kubelet; optional.
	Certificates Certificates
	// MaxAge is how long an answer is shared; 0 means 1 s. DiskAge is the same
	// for what takes a walk over a directory; 0 means 1 min.
	MaxAge  time.Duration
	DiskAge time.Duration
	Clock   clock.PassiveClock // nil means the real one
}

// Certificates tells of the certificates of a kubelet that are renewed. Those functions that are nil tell nothing.
type Certificates struct {
	// Server and Client are the present ones, nil for none.
	Server, Client func() *x509.Certificate
	// ServerFailures and ClientFailures are how often renewals have failed.
	ServerFailures, ClientFailures func() int64
}

// Provider measures. It is safe for concurrent use.
type Provider struct {
	cfg   Config
	host  *host
	disks *disks

	turn  chan struct{} // holds one token: one measurement at a time
	usage shared        // guarded by turn
	full  shared        // guarded by turn
	rates map[string]rate

	mu     sync.Mutex
	images imageFs
}

// shared is an answer that others get, too.
type shared struct {
	summary *statsapi.Summary
	at      time.Time
}

// New makes a Provider; nothing is read yet.
func New(cfg Config) (*Provider, error) {
	if cfg.NodeName == "" || cfg.Pods == nil || cfg.Runtime == nil || cfg.Images == nil {
		return nil, errors.New("make statistics: node name, pods and runtime are required")
	}
	if !filepath.IsAbs(cfg.RootDir) || !filepath.IsAbs(cfg.LogDir) {
		return nil, errors.New("make statistics: absolute root and log directories are required")
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = time.Second
	}
	if cfg.DiskAge == 0 {
		cfg.DiskAge = time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	p := &Provider{
		cfg: cfg, host: &host{proc: "/proc"}, disks: newDisks(cfg.Clock), turn: make(chan struct{}, 1), rates: map[string]rate{},
	}
	p.turn <- struct{}{}
	return p, nil
}

// Summary is everything of the node and its running Pods. It is shared: read
// only.
func (p *Provider) Summary(ctx context.Context) (*statsapi.Summary, error) {
	return p.ask(ctx, true)
}

// Usage is a Summary with CPU, memory and swap alone, which costs no walk over
// any directory of this process. It is shared: read only.
func (p *Provider) Usage(ctx context.Context) (*statsapi.Summary, error) {
	return p.ask(ctx, false)
}

func (p *Provider) ask(ctx context.Context, full bool) (*statsapi.Summary, error) {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { p.turn <- struct{}{} }()
	have := &p.full
	if !full && p.usage.at.After(p.full.at) {
		have = &p.usage
	}
	if have.summary != nil && p.cfg.Clock.Since(have.at) < p.cfg.MaxAge {
		return have.summary, nil
	}
	s := &statsapi.Summary{Node: statsapi.NodeStats{NodeName: p.cfg.NodeName}}
	at := p.cfg.Clock.Now()
	if err := p.node(ctx, &s.Node, full); err != nil {
		return nil, err
	}
	var err error
	if s.Pods, err = p.pods(ctx, full); err != nil {
		return nil, err
	}
	p.forgetRates(at)
	if full {
		p.full = shared{s, at}
	} else {
		p.usage = shared{s, at}
	}
	return s, nil
}

// rate remembers a counter to tell how fast it grows.
type rate struct {
	at    time.Time // of the counter
	total uint64
	cores *uint64   // nanoseconds of CPU a second, over the last interval
	seen  time.Time // by this process
}

// minInterval is the shortest time over which a speed is worth telling.
const minInterval = 500 * time.Millisecond

// nanoCores is how much CPU is used at present, known from the second time on
// that somebody asks. The caller holds the turn.
func (p *Provider) nanoCores(key string, at time.Time, total uint64) *uint64 {
	old, ok := p.rates[key]
	now := p.cfg.Clock.Now()
	switch d := at.Sub(old.at); {
	case !ok, total < old.total: // new, or begun again
		p.rates[key] = rate{at: at, total: total, seen: now}
	case d < minInterval:
		old.seen = now
		p.rates[key] = old
	default:
		v := uint64(float64(total-old.total) / d.Seconds())
		p.rates[key] = rate{at: at, total: total, cores: &v, seen: now}
	}
	return p.rates[key].cores
}

func (p *Provider) forgetRates(before time.Time) {
	for key, r := range p.rates {
		if r.seen.Before(before) {
			delete(p.rates, key)
		}
	}
}

// imageFs is where images are, and what they take.
type imageFs struct {
	path    string // "" before the first answer
	used    uint64
	inodes  uint64
	at      time.Time
	expires time.Time
}

// ImageFsPath is a directory on the file system of the images.
func (p *Provider) ImageFsPath(ctx context.Context) (string, error) {
	if p.cfg.ImageDir != "" {
		return p.cfg.ImageDir, nil
	}
	p.mu.Lock()
	path := p.images.path
	p.mu.Unlock()
	if path != "" {
		return path, nil
	}
	fs, err := p.imageFs(ctx)
	return fs.path, err
}

// imageFs asks the runtime what images take. That may cost a walk over all of
// them, so the answer serves the longer the more it cost.
func (p *Provider) imageFs(ctx context.Context) (imageFs, error) {
	p.mu.Lock()
	have := p.images
	p.mu.Unlock()
	now := p.cfg.Clock.Now()
	if now.Before(have.expires) {
		return have, nil
	}
	resp, err := p.cfg.Images.ImageFsInfo(ctx)
	if err != nil {
		return imageFs{}, fmt.Errorf("ask the container runtime for its file system: %w", err)
	}
	if len(resp.GetImageFilesystems()) == 0 || resp.ImageFilesystems[0].GetFsId().GetMountpoint() == "" {
		return imageFs{}, errors.New("ask the container runtime for its file system: it names none")
	}
	first := resp.ImageFilesystems[0]
	fs := imageFs{
		path: first.FsId.Mountpoint, used: first.GetUsedBytes().GetValue(), inodes: first.GetInodesUsed().GetValue(), at: now,
		expires: expiry(now, p.cfg.Clock.Since(now), p.cfg.DiskAge),
	}
	p.mu.Lock()
	p.images = fs
	p.mu.Unlock()
	return fs, nil
}

// expiry keeps what measuring costs below a fiftieth of one core.
func expiry(now time.Time, cost, age time.Duration) time.Time {
	return now.Add(cost + max(age, 50*cost))
}

func ptr[T any](v T) *T { return &v }

func stamp(t time.Time) metav1.Time { return metav1.NewTime(t) }

func nanos(ns int64) metav1.Time { return metav1.NewTime(time.Unix(0, ns)) }
