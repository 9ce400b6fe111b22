// Package node speaks for this machine: it registers the Node object, keeps its
// status true, and renews its lease.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apimachinery/lease"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// LeaseRenewal is Kubernetes' interval between a node's signs of life.
const LeaseRenewal = 10 * time.Second

// Kubernetes' other intervals: how often the state is looked at, how often an
// unchanged status is written all the same, and the lease's.
const (
	lookEvery    = 10 * time.Second
	reportEvery  = 5 * time.Minute
	leaseSeconds = 40
)

// Pressure is the node's shortage of resources, as eviction sees it.
type Pressure interface {
	// Pressure says what the node is short of now.
	Pressure() (memory, disk, pids bool)
	// Kept is what it keeps from Pods of a node with that capacity.
	Kept(capacity v1.ResourceList) v1.ResourceList
}

// Volumes are those that others attach to the node.
type Volumes interface {
	// InUse lists those that must not be detached; ok is false while that is not known.
	InUse() (list []v1.UniqueVolumeName, ok bool)
	// NodeChanged tells of a Node object, which may be shared. It does not block.
	NodeChanged(node *v1.Node)
}

// Devices are those that programs of the node have.
type Devices interface {
	// Capacity is how many there are of each resource, and how many of them Pods may have.
	Capacity() (capacity, allocatable v1.ResourceList)
}

// Config is what a Node needs. Optional fields say so.
type Config struct {
	Name     string
	Client   kubernetes.Interface
	Runtime  internalapi.RuntimeService
	Images   internalapi.ImageManagerService
	Recorder record.EventRecorder
	// IPs are the node's addresses, primary first; at least one.
	IPs []string
	// Labels, Annotations and Taints are set when the node registers; the first two also later.
	Labels, Annotations map[string]string
	Taints              []v1.Taint
	// PodCIDRs, if any, become spec.podCIDRs at registration.
	PodCIDRs []string
	// Port is where the kubelet's server listens; 0: nowhere.
	Port int32
	// RootDir is on the file system that ephemeral storage is counted on.
	RootDir  string
	MaxPods  int64           // 0 means 110
	Reserved v1.ResourceList // kept from Pods; optional
	Version  string          // the kubelet's
	Pressure Pressure        // optional
	// Volumes, if set, has the volumes that are attached for this node to use.
	Volumes Volumes
	Devices Devices // optional
}

// Node keeps the Node object of this machine.
type Node struct {
	cfg  Config
	m    *machine
	kick chan struct{}

	mu      sync.Mutex
	current *v1.Node // as last read or written; shared, read only
	// cordoned is what was last told of spec.unschedulable.
	cordoned bool
	// gone says that somebody has deleted current.
	gone  bool
	first chan struct{}
	once  sync.Once
}

// New makes a Node.
func New(cfg Config) (*Node, error) {
	if cfg.Name == "" || len(cfg.IPs) == 0 {
		return nil, errors.New("make node: a name and an address are required")
	}
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
	m, err := readMachine()
	if err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, m: m, kick: make(chan struct{}, 1), first: make(chan struct{})}, nil
}

// CPUMilli is the machine's CPU in thousandths.
func (n *Node) CPUMilli() int64 { return int64(n.m.cpus) * 1000 }

// MaxPods is how many Pods the node takes.
func (n *Node) MaxPods() int64 { return n.cfg.MaxPods }

// Kick makes the status be looked at now: an image was pulled, a pressure changed.
func (n *Node) Kick() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Registered is closed once the Node object exists with a status.
func (n *Node) Registered() <-chan struct{} { return n.first }

// Observe takes a newer Node object from a watch. One whose conditions say that nothing was heard of the node has the status be written at
// once. Where the node is cordoned now and was not, or the reverse, an event says so.
func (n *Node) Observe(node *v1.Node) {
	n.mu.Lock()
	n.current, n.gone = node, false
	turned := n.cordoned != node.Spec.Unschedulable
	n.cordoned = node.Spec.Unschedulable
	n.mu.Unlock()
	switch {
	case turned && node.Spec.Unschedulable:
		n.status("NodeNotSchedulable")
	case turned:
		n.status("NodeSchedulable")
	}
	if n.cfg.Volumes != nil {
		n.cfg.Volumes.NodeChanged(node)
	}
	if slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Status == v1.ConditionUnknown }) {
		n.Kick()
	}
}

// Gone takes from a watch that a Node object was deleted. The machine is still here, so it registers anew, at once: until then nothing that
// it says of itself or of its Pods is taken.
func (n *Node) Gone(node *v1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current != nil && n.current.UID == node.UID { // else it has registered since
		n.gone = true
		n.Kick()
	}
}

// isGone says whether the newest Node object known was deleted.
func (n *Node) isGone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// Get is the newest Node object known.
func (n *Node) Get() (*v1.Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current == nil {
		return nil, fmt.Errorf("node %s is not registered yet", n.cfg.Name)
	}
	return n.current, nil
}

// Expected is the newest Node object known. Before there is one with a status, it is as this machine will report it: static Pods do
// not wait.
func (n *Node) Expected() (*v1.Node, error) {
	node, err := n.Get()
	switch {
	case err != nil:
		node = n.initial()
	case len(node.Status.Allocatable) > 0:
		return node, nil
	default:
		node = node.DeepCopy()
	}
	return node, n.resources(&node.Status)
}

// Allocatable is what Pods may have of this node.
func (n *Node) Allocatable() v1.ResourceList {
	if node, err := n.Expected(); err == nil {
		return node.Status.Allocatable
	}
	return nil
}

// Run registers the node, then keeps its status and lease until ctx ends.
func (n *Node) Run(ctx context.Context) {
	n.event(v1.EventTypeNormal, "Starting", "Starting kubelet.")
	var wg sync.WaitGroup
	defer wg.Wait()
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 7*time.Second) {
		err := n.register(ctx)
		if err == nil {
			break
		}
		if !sleep(ctx, delay) {
			return
		}
		klog.FromContext(ctx).Info("Registering the node failed; trying again", "node", n.cfg.Name, "err", err)
	}
	wg.Go(func() { n.lease(ctx) })
	reported, delay := time.Time{}, 20*time.Millisecond
	for {
		wrote, ready, err := n.report(ctx, time.Since(reported) >= reportEvery)
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Reporting the node's status failed", "node", n.cfg.Name)
		}
		if wrote {
			reported = time.Now()
			n.once.Do(func() { close(n.first) })
		}
		next := lookEvery
		if err != nil || !ready { // soon, because everything waits for it
			next, delay = delay, min(2*delay, lookEvery)
		} else {
			delay = 20 * time.Millisecond
		}
		if !n.wait(ctx, next) {
			return
		}
	}
}

func (n *Node) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-n.kick:
	case <-t.C:
	}
	return true
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (n *Node) lease(ctx context.Context) {
	owner := func(l *coordinationv1.Lease) error {
		node, err := n.Get()
		if err != nil {
			return err
		}
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
		return nil
	}
	lease.NewController(clock.RealClock{}, n.cfg.Client, n.cfg.Name, leaseSeconds, nil, LeaseRenewal,
		n.cfg.Name, v1.NamespaceNodeLease, owner).Run(ctx)
}

// register creates the Node, or brings labels of an existing one up to date.
func (n *Node) register(ctx context.Context) error {
	nodes := n.cfg.Client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := n.initial()
		have, err = nodes.Create(ctx, fresh, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			have, err = nodes.Get(ctx, n.cfg.Name, metav1.GetOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	patch := map[string]any{}
	meta := map[string]any{}
	if missing := differing(n.labels(), have.Labels); len(missing) > 0 {
		meta["labels"] = missing
	}
	if missing := differing(n.cfg.Annotations, have.Annotations); len(missing) > 0 {
		meta["annotations"] = missing
	}
	if len(meta) > 0 {
		patch["metadata"] = meta
	}
	if len(have.Spec.PodCIDRs) == 0 && len(n.cfg.PodCIDRs) > 0 {
		patch["spec"] = map[string]any{"podCIDR": n.cfg.PodCIDRs[0], "podCIDRs": n.cfg.PodCIDRs}
	}
	if len(patch) > 0 {
		body, err := json.Marshal(patch)
		if err != nil {
			return fmt.Errorf("register node: %w", err)
		}
		if have, err = nodes.Patch(ctx, n.cfg.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("update node: %w", err)
		}
	}
	n.Observe(have)
	return nil
}

// differing are those of want that are not so in have.
func differing(want, have map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range want {
		if now, ok := have[k]; !ok || now != v {
			out[k] = v
		}
	}
	return out
}

func (n *Node) labels() map[string]string {
	l := map[string]string{
		v1.LabelHostname: n.cfg.Name, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for k, v := range n.cfg.Labels {
		l[k] = v
	}
	return l
}

func (n *Node) initial() *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.cfg.Name, Labels: n.labels(),
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec: v1.NodeSpec{Taints: n.cfg.Taints, PodCIDRs: n.cfg.PodCIDRs},
	}
	maps.Copy(node.Annotations, n.cfg.Annotations)
	if len(n.cfg.PodCIDRs) > 0 {
		node.Spec.PodCIDR = n.cfg.PodCIDRs[0]
	}
	return node
}

// report writes the status if it changed, or if due. Before that it registers a node that was deleted.
func (n *Node) report(ctx context.Context, due bool) (wrote, ready bool, err error) {
	if n.isGone() {
		klog.FromContext(ctx).Info("The Node object was deleted; registering anew", "node", n.cfg.Name)
		if err := n.register(ctx); err != nil {
			return false, false, err
		}
	}
	old, err := n.Get()
	if err != nil {
		return false, false, err
	}
	want := old.DeepCopy()
	notes, err := n.fill(ctx, &want.Status)
	if err != nil {
		return false, false, err
	}
	ready = isReady(&want.Status)
	if !due && same(&old.Status, &want.Status) {
		return false, ready, nil
	}
	patch, err := statusPatch(old, want)
	if err != nil {
		return false, ready, err
	}
	got, err := n.cfg.Client.CoreV1().Nodes().Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) { // somebody deleted it: it is still here
		return false, ready, errors.Join(err, n.register(ctx))
	}
	if err != nil {
		return false, ready, fmt.Errorf("patch node status: %w", err)
	}
	n.Observe(got)
	for _, note := range notes {
		n.status(note)
	}
	return true, ready, nil
}

func isReady(s *v1.NodeStatus) bool {
	c := condition(s, v1.NodeReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// same compares without heartbeats.
func same(a, b *v1.NodeStatus) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1.NodeStatus{a, b} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(a, b)
}

func statusPatch(old, want *v1.Node) ([]byte, error) {
	a, err := json.Marshal(v1.Node{Status: old.Status})
	if err != nil {
		return nil, fmt.Errorf("encode node status: %w", err)
	}
	b, err := json.Marshal(v1.Node{Status: want.Status})
	if err != nil {
		return nil, fmt.Errorf("encode node status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, v1.Node{})
	if err != nil {
		return nil, fmt.Errorf("make node status patch: %w", err)
	}
	// Addresses merge by type: with two of one type a patch would mix old and
	// new ones, so the whole list is replaced.
	if !equality.Semantic.DeepEqual(old.Status.Addresses, want.Status.Addresses) {
		var body map[string]any
		if err := json.Unmarshal(patch, &body); err != nil {
			return nil, fmt.Errorf("make node status patch: %w", err)
		}
		status, _ := body["status"].(map[string]any)
		delete(status, "$setElementOrder/addresses")
		list := []any{}
		for _, a := range want.Status.Addresses {
			list = append(list, map[string]any{"type": a.Type, "address": a.Address})
		}
		status["addresses"] = append(list, map[string]any{"$patch": "replace"})
		return json.Marshal(body)
	}
	return patch, nil
}

func (n *Node) status(is string) {
	n.event(v1.EventTypeNormal, is, fmt.Sprintf("Node %s status is now: %s", n.cfg.Name, is))
}

func (n *Node) event(kind, reason, message string) {
	n.cfg.Recorder.Event(&v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.cfg.Name, UID: types.UID(n.cfg.Name)}, kind, reason, message)
}
