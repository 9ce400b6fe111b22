// Package cri is the embedded container runtime behind the Container Runtime Interface, as Go interfaces and without a listener: Service
// implements RuntimeService and ImageManagerService of k8s.io/cri-api/pkg/apis.
//
// Processes belong to the supervisor (package supervisor), which outlives this process; images and snapshots to packages image and
// snapshot; the Pod network to a Network. This package owns what ties them together: sandboxes and containers, each with a small journal
// file. Every change on the machine comes after a journal entry that names it, and every step can be repeated, so that Open finishes or
// undoes whatever a kill -9 left half done (see recover.go).
//
// There is no process per Pod. A sandbox's network, IPC and UTS namespaces are held by bind mounts; only a Pod whose containers share a
// PID namespace has a small first process in it.
package cri

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/oci"
	"github.com/peapod/peapod/runtime/snapshot"
	"github.com/peapod/peapod/runtime/supervisor"
)

// Images is what the runtime needs of an image store; *image.Store has it.
type Images interface {
	internalapi.ImageManagerService
	// Resolve finds an image by ID or name.
	Resolve(ctx context.Context, name string) (*image.Image, error)
}

// Snapshots are the file systems of containers; *snapshot.Snapshots has it. All methods are idempotent.
type Snapshots interface {
	Prepare(ctx context.Context, id, chainID string, owner snapshot.Owner) ([]snapshot.Mount, error)
	View(ctx context.Context, id, chainID string) ([]snapshot.Mount, error)
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context, id string) (snapshot.Usage, error)
	List(ctx context.Context) ([]string, error)
}

// Network connects sandboxes. Setup and Teardown are idempotent; Teardown of an unknown sandbox is no error.
type Network interface {
	Setup(ctx context.Context, sandboxID, netnsPath string, ports []*runtimeapi.PortMapping) ([]netip.Addr, error)
	Teardown(ctx context.Context, sandboxID string) error
	// Addresses returns nil for a sandbox that it does not know.
	Addresses(sandboxID string) []netip.Addr
}

// Config is what a Service is made of. All fields without a stated default are required.
type Config struct {
	// DataDir keeps the journal, across reboots.
	DataDir string
	// RunDir keeps mounts and files that containers are made from, for as long as the machine runs. It must be short: sockets lie
	// below it.
	RunDir string
	// CgroupParent is the cgroup, from the root of the hierarchies, of sandboxes whose config names none, for example
	// "/peapod-1a2b/pods". It carries the instance.
	CgroupParent string
	// Supervisor runs the containers.
	Supervisor *supervisor.Client
	// Pause is the program that holds shared PID namespaces; nil means the podinit that this binary carries.
	Pause     *supervisor.Program
	Images    Images
	Snapshots Snapshots
	Network   Network
	// SeccompProfileRoot is where Localhost profiles must lie; a profile's name is a path below it. Default: /var/lib/kubelet/seccomp.
	SeccompProfileRoot string
	// CDISpecDirs are the directories with what devices are, of the Container Device Interface; of two files that say it of one, the
	// later directory's counts. Default: /etc/cdi and /var/run/cdi.
	CDISpecDirs []string
	// StreamPrefix is the path below which StreamHandler is served, and which the URLs of Exec, Attach and PortForward begin with.
	// Default: "/cri/".
	StreamPrefix string
	// Version is reported as the runtime's version.
	Version string
}

// RuntimeName is the name that Version reports; container IDs in Pod statuses begin with it.
const RuntimeName = "peapod"

// DefaultCDISpecDirs are the directories of the Container Device Interface that every container runtime reads.
func DefaultCDISpecDirs() []string { return slices.Clone(cdi.DefaultSpecDirs) }

// Service is the container runtime. It is safe for concurrent use, between Open and Close.
type Service struct {
	cfg  Config
	log  klog.Logger
	host *oci.Host
	// users says whether this machine can make user namespaces for Pods; see probeUsers.
	users struct {
		sync.Mutex
		work bool
	}
	streaming streaming.Server
	forwards  forwardAddresses
	events    *broadcaster

	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container

	cancel context.CancelFunc
	done   sync.WaitGroup

	// halt, in tests, stops an operation dead at a named step, as kill -9 would: nothing is undone.
	halt func(step string) error
}

var (
	_ internalapi.RuntimeService = (*Service)(nil)
)

// New returns a Service that has touched nothing yet.
func New(cfg Config) (*Service, error) {
	if cfg.DataDir == "" || cfg.RunDir == "" || cfg.CgroupParent == "" || cfg.Supervisor == nil || cfg.Images == nil ||
		cfg.Snapshots == nil || cfg.Network == nil {
		return nil, errors.New("container runtime: incomplete configuration")
	}
	if cfg.SeccompProfileRoot == "" {
		cfg.SeccompProfileRoot = "/var/lib/kubelet/seccomp"
	}
	if len(cfg.CDISpecDirs) == 0 {
		cfg.CDISpecDirs = DefaultCDISpecDirs()
	}
	if cfg.StreamPrefix == "" {
		cfg.StreamPrefix = "/cri/"
	}
	if !strings.HasSuffix(cfg.StreamPrefix, "/") {
		cfg.StreamPrefix += "/"
	}
	if cfg.Version == "" {
		cfg.Version = "0.0.0"
	}
	s := &Service{
		cfg: cfg, events: newBroadcaster(), sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		halt: func(string) error { return nil },
	}
	if err := s.newStreaming(); err != nil {
		return nil, err
	}
	return s, nil
}

// Open starts or finds the supervisor, brings the journal and the machine into agreement, and follows the containers from then on. ctx
// bounds Open alone, but its logger serves the Service's lifetime.
func (s *Service) Open(ctx context.Context) error {
	s.log = klog.FromContext(ctx).WithName("cri")
	for _, dir := range []string{s.sandboxFile(""), s.containerFile(""), s.sandboxRun(""), s.containerRun("")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make container runtime directory: %w", err)
		}
	}
	s.host = readHost()
	if err := s.load(); err != nil {
		return err
	}
	if err := s.cfg.Supervisor.Ensure(ctx); err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if err := s.recover(ctx, func() { s.done.Go(func() { s.follow(life) }) }); err != nil {
		cancel()
		s.done.Wait()
		return fmt.Errorf("recover containers: %w", err)
	}
	s.cancel = cancel
	return nil
}

// Close stops following the containers and ends the streams of events. The containers run on, and a later Open takes them over. A Service
// is opened once: make a new one.
func (s *Service) Close(context.Context) error {
	if s.cancel != nil {
		s.cancel()
	}
	s.events.close()
	s.done.Wait()
	return nil
}

// The journals of a sandbox and a container; without an ID the directory of all.
func (s *Service) sandboxFile(id string) string { return filepath.Join(s.cfg.DataDir, "sandboxes", id) }
func (s *Service) containerFile(id string) string {
	return filepath.Join(s.cfg.DataDir, "containers", id)
}

// The directories of what a sandbox and a container have only while the machine runs.
func (s *Service) sandboxRun(id string) string { return filepath.Join(s.cfg.RunDir, "sandboxes", id) }
func (s *Service) containerRun(id string) string {
	return filepath.Join(s.cfg.RunDir, "containers", id)
}
