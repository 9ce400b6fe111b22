package pod

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// Volumes mounts what spec.volumes of Pods declare. Every method is safe for
// concurrent use by different Pods; the lifecycle never runs two calls for one
// Pod at once. Every method is idempotent, so that a crash between any two of
// them is healed by calling again.
type Volumes interface {
	// Adopt is called once, before any other method is called for a Pod of the
	// API: pods are those that the API server binds to this node and that are not
	// finished, and all static Pods, which may be prepared already. What other
	// Pods left mounted on the node is torn down (in the background is fine);
	// what these have mounted stays as it is.
	Adopt(ctx context.Context, pods []*v1.Pod) error
	// Prepare mounts all volumes of the Pod, fsGroup applied, and returns when
	// all are ready to be bound into containers. The text of an error becomes
	// the message of the Pod's FailedMount event, so it is worded as
	// Kubernetes words it: `MountVolume.SetUp failed for volume "x" : ...`.
	// After an error Prepare is called again with back-off (0.5 s doubling to
	// 2 min 2 s), or as soon as a RetryError says.
	Prepare(ctx context.Context, pod *v1.Pod) error
	// Changed tells that labels, annotations or resources of the Pod are others now:
	// what the downward API shows of them follows. It does not block, and may
	// come at any time, also before Prepare and after Teardown.
	Changed(pod *v1.Pod)
	// Mounts returns the CRI mounts of one container (of any of the three
	// lists; an ephemeral container comes converted to v1.Container) for its
	// volumeMounts, in order. env is the container's finished environment, for
	// subPathExpr. Called after Prepare succeeded, before each start.
	Mounts(ctx context.Context, pod *v1.Pod, container *v1.Container, env map[string]string) ([]*runtimeapi.Mount, error)
	// Devices returns the CRI devices of one container for its volumeDevices,
	// in order. Called as Mounts is.
	Devices(ctx context.Context, pod *v1.Pod, container *v1.Container) ([]*runtimeapi.Device, error)
	// File reads a file of one of the Pod's emptyDir volumes, which containers
	// may have put there. Called as Mounts is.
	File(pod *v1.Pod, volume, path string) ([]byte, error)
	// Teardown unmounts and removes all that the Pod had, also when Prepare
	// never ran or ran in an earlier process. Called once no container of the
	// Pod runs; called again with back-off after an error.
	Teardown(ctx context.Context, uid types.UID) error
}

// RetryError is an error of Volumes or Devices that knows when trying again can
// help: Ready is closed then (the missing ConfigMap appeared, ...).
type RetryError struct {
	Err   error
	Ready <-chan struct{}
	// Quiet says that nothing has failed: what Pods have is under way, and its end closes Ready.
	Quiet bool
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// Lookup is read access to the Pods of this node, for the kubelet's server,
// statistics and eviction. Pods returned are shared: read only.
type Lookup interface {
	// Pod finds a Pod by name; its status is the newest the kubelet computed.
	Pod(namespace, name string) (*v1.Pod, bool)
	// PodByUID is Pod by UID.
	PodByUID(uid types.UID) (*v1.Pod, bool)
	// Pods returns all Pods that have something on this node.
	Pods() []*v1.Pod
	// SandboxID is the CRI ID of the Pod's newest sandbox. After a start of the
	// kubelet it waits until what the Pod has was read from the runtime, or ctx
	// ends.
	SandboxID(ctx context.Context, uid types.UID) (string, bool)
	// ContainerID is the CRI ID of the newest instance of a container of any
	// of the three lists, or of the one before it. A container that exists in
	// the spec and has no such instance yields a *NoContainerError. It waits as
	// SandboxID does.
	ContainerID(ctx context.Context, uid types.UID, container string, previous bool) (string, error)
}

// NoContainerError says that a container (or its previous instance) is not
// there to be read from.
type NoContainerError struct {
	Pod       string // name
	Container string
	Previous  bool
	// Waiting is the reason of its waiting state, if it waits.
	Waiting string
}

func (e *NoContainerError) Error() string {
	switch {
	case e.Previous:
		return fmt.Sprintf("previous terminated container %q in pod %q not found", e.Container, e.Pod)
	case e.Waiting != "":
		return fmt.Sprintf("container %q in pod %q is waiting to start: %s", e.Container, e.Pod, e.Waiting)
	default:
		return fmt.Sprintf("container %q in pod %q is not available", e.Container, e.Pod)
	}
}

// Evictor ends Pods on behalf of the node, as eviction does.
type Evictor interface {
	// Evict fails the Pod: phase Failed with reason and message, the condition
	// (usually DisruptionTarget) if any, its containers stopped with at most
	// grace seconds. It returns when the request is recorded; the Pod ends in
	// the background. Evicting a Pod that is ending is not an error.
	Evict(uid types.UID, e Eviction) error
}

// Eviction is why and how a Pod is ended by the node.
type Eviction struct {
	Reason       string // status.reason, such as Evicted
	Message      string // status.message
	GraceSeconds int64
	Condition    *v1.PodCondition // added to status.conditions, may be nil
}

// Cgroups keeps the Pods' own cgroups; criconfig.Node and the runtime put
// containers below them.
type Cgroups interface {
	PodPath(pod *v1.Pod) string
	// Ensure makes the Pod's cgroup, with the limits that the Pod has.
	Ensure(pod *v1.Pod) error
	// Widen gives the Pod's cgroup the wider of two sets of limits, so that
	// those of its containers may go from the one to the other inside.
	Widen(from, to *v1.Pod) error
	// Memory is what the Pod's cgroup uses, and MemoryLimit what Ensure limits
	// it to, 0 for no limit; both in bytes.
	Memory(pod *v1.Pod) (int64, error)
	MemoryLimit(pod *v1.Pod) int64
	Remove(ctx context.Context, uid types.UID) error
	// Pods are the UIDs that have a cgroup.
	Pods() (map[types.UID]bool, error)
}

// Network is told which addresses Pods have, before anything in them runs.
type Network interface {
	// Admit returns when the network holds the Pod, which has these addresses, to
	// what is laid down for it. It is called before each start of a container, and
	// costs little when the addresses are known.
	Admit(ctx context.Context, pod *v1.Pod, addresses []string) error
	// Release is called once no sandbox has the addresses any more; it can be
	// repeated.
	Release(namespace, name string, uid types.UID)
}

// UserNamespaces give Pods with hostUsers: false ranges of the node's user and
// group IDs.
type UserNamespaces interface {
	// Of is the user namespace of a Pod, the same until Release. The runtime's
	// handler, which must support it, counts when the Pod has none yet.
	Of(ctx context.Context, pod *v1.Pod, handler string) (*runtimeapi.UserNamespace, error)
	// Release gives the Pod's range back, if it has one. Called once no sandbox
	// of the Pod is left running; idempotent.
	Release(uid types.UID) error
	// Pods are the UIDs that have a range.
	Pods() []types.UID
}

// Devices are those that Pods claim (dynamic resource allocation). Every
// method but Pods and Health is for one Pod, and never called twice at once
// for it.
type Devices interface {
	// Prepare makes ready what the Pod claims, before its sandbox is made. The
	// text of an error becomes the message of a FailedPrepareDynamicResources
	// event; it is called again with back-off, or as soon as a RetryError says.
	Prepare(ctx context.Context, pod *v1.Pod) error
	// Devices are the names, in the Container Device Interface, of what one
	// container gets of that.
	Devices(pod *v1.Pod, container *v1.Container) ([]string, error)
	// Health is what is known of the health of what one container gets, as
	// its status tells it; nil for nothing.
	Health(pod *v1.Pod, container *v1.Container) []v1.ResourceStatus
	// Release undoes Prepare, also one that failed or was an earlier process's.
	// Called once no sandbox of the Pod is left running, and again as Prepare
	// is after an error.
	Release(ctx context.Context, uid types.UID) error
	// Pods are the UIDs that there may be something to release of.
	Pods() ([]types.UID, error)
}

// DevicePlugins have devices of which containers ask for a number (extended
// resources). Allocate, Given and Release are never called twice at once for
// one Pod.
type DevicePlugins interface {
	// Allocate gives the containers of a Pod their devices when it is admitted,
	// or says why it cannot have them. It may take as long as plugins do; other
	// Pods do not wait. ceded are Pods whose devices are free. An error is no
	// answer; it is called again.
	Allocate(ctx context.Context, pod *v1.Pod, ceded func() []types.UID) (*Refusal, error)
	// Given is what one container gets of that, nil for nothing. Called before
	// each start; a RetryError says when a failed one can do.
	Given(ctx context.Context, pod *v1.Pod, container *v1.Container) (*criconfig.Given, error)
	// Health is what is known of the health of what one container gets, as
	// its status tells it; nil for nothing.
	Health(pod *v1.Pod, container *v1.Container) []v1.ResourceStatus
	// Release undoes Allocate, also an earlier process's. Called once no sandbox
	// of the Pod is left running; idempotent.
	Release(uid types.UID) error
	// Pods are the UIDs that have devices.
	Pods() []types.UID
}

// Instance is a running container instance to be probed.
type Instance struct {
	Container *v1.Container
	ID        string
	StartedAt time.Time
}

// Prober runs probes. A changed result calls the worker's Wake.
type Prober interface {
	// Sync makes probes run for exactly these instances of the Pod. ending
	// stops liveness and startup probes: the Pod is being terminated. What the
	// Pod's status says about an instance that is new here is its first result.
	Sync(pod *v1.Pod, podIP string, instances []Instance, ending bool)
	// Results are the newest results by container ID.
	Results(uid types.UID) map[string]Probes
	// Forget stops all probes of a Pod.
	Forget(uid types.UID)
}

// Hooks runs lifecycle handlers.
type Hooks interface {
	Run(ctx context.Context, pod *v1.Pod, podIP string, c *v1.Container, containerID string, h *v1.LifecycleHandler) error
}

// Publisher is the one writer of Pod status to the API.
type Publisher interface {
	// Set publishes a status, sooner or later; only the newest counts. final:
	// once published, a Pod that is being deleted leaves the API.
	Set(pod *v1.Pod, status v1.PodStatus, final bool)
	// Tried returns when what Set last said of the Pod is published, or a try
	// to publish it has failed: at once if there is nothing to publish.
	Tried(ctx context.Context, pod *v1.Pod) error
	// Forget says that nothing of the Pod is left on the node; it drops what is not published yet.
	Forget(pod *v1.Pod)
}

// Gate may keep Pods off the node, such as while it is short of something.
type Gate interface {
	Admit(ctx context.Context, pod *v1.Pod, others []*v1.Pod) *Refusal
}

// Admitter decides what the node gives to a Pod beside those it has.
type Admitter interface {
	// Admit says whether the node takes the Pod.
	Admit(ctx context.Context, pod *v1.Pod, others []*v1.Pod) *Refusal
	// Resize says whether a Pod of the node may have what its spec says now.
	// The reason of a refusal is v1.PodReasonDeferred where there may be room
	// later, and v1.PodReasonInfeasible where there cannot be.
	Resize(ctx context.Context, pod *v1.Pod, others []*v1.Pod) *Refusal
}
