// Package nodelifecycle notices when a node falls silent, and keeps the taints of nodes in step with their conditions: a
// node that is not ready, under pressure or cordoned takes no new Pods, and one that is not ready or silent loses those it
// has after the time that they tolerate (see package tainteviction).
package nodelifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap
// role of the same name fits.
const Name = "node-controller"

// taintFor says which taint a condition of a certain status stands for (KEP-382).
var taintFor = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady: {
		corev1.ConditionFalse:   corev1.TaintNodeNotReady,
		corev1.ConditionUnknown: corev1.TaintNodeUnreachable,
	},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
}

// keeper keeps conditions and taints.
type keeper struct {
	d          engine.Deps
	nodes      corelisters.NodeLister
	pods       corelisters.PodLister
	heartbeats heartbeats
	// known are the nodes whose coming was told of.
	known knownNodes
	// ready holds the names of the nodes that are ready, as the informer's events tell.
	ready readyNodes
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	nodes, pods, leases := d.Informers.Core().V1().Nodes(), d.Informers.Core().V1().Pods(), d.Informers.Coordination().V1().Leases()
	k := &keeper{d: d, nodes: nodes.Lister(), pods: pods.Lister(), heartbeats: heartbeats{seen: map[string]time.Time{}},
		known: knownNodes{uids: map[string]types.UID{}}, ready: readyNodes{names: map[string]bool{}}}
	loop := &engine.Loop{Name: Name, Workers: 2, Sync: k.sync}
	queue := engine.Object(loop)
	all := func() {
		list, err := k.nodes.List(labels.Everything())
		if err != nil {
			return // a lister of a store in memory does not fail
		}
		for _, n := range list {
			queue(n)
		}
	}
	changed := func(n *corev1.Node, ready bool) {
		queue(n)
		if k.ready.set(n.Name, ready) {
			all() // whether Pods are evicted depends on whether any node is ready
		}
	}
	synced, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { changed(obj.(*corev1.Node), isReady(obj.(*corev1.Node))) },
		UpdateFunc: func(old, now any) {
			was, is := old.(*corev1.Node), now.(*corev1.Node)
			if a, b := readyCondition(was), readyCondition(is); b != nil && b.Status != corev1.ConditionUnknown && (a == nil || !a.LastHeartbeatTime.Equal(&b.LastHeartbeatTime)) {
				k.heartbeats.beat(is.Name)
			}
			changed(is, isReady(is))
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if n, ok := obj.(*corev1.Node); ok {
				changed(n, false)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	heard, err := leases.Informer().AddEventHandler(k.heartbeats.onLease())
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker(), heard.HasSyncedChecker(), pods.Informer().HasSyncedChecker()}
	return loop, nil
}

func (k *keeper) sync(ctx context.Context, key cache.ObjectName) error {
	node, err := k.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		k.heartbeats.forget(key.Name)
		if uid := k.known.set(key.Name, ""); uid != "" {
			k.tell(key.Name, uid, "RemovingNode", fmt.Sprintf("Node %s event: Removing Node %s from Controller", key.Name, key.Name))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", key.Name, err)
	}
	if k.known.set(node.Name, node.UID) == "" {
		k.tell(node.Name, node.UID, "RegisteredNode", fmt.Sprintf("Node %s event: Registered Node %s in Controller", node.Name, node.Name))
	}
	wait := silentFor(node, k.heartbeats.last(node.Name), cmp.Or(k.d.NodeMonitorGracePeriod, DefaultGracePeriod))
	if wait <= 0 {
		if err := k.lose(ctx, node); err != nil {
			return err
		}
	}
	if c := readyCondition(node); c != nil && c.Status != corev1.ConditionTrue {
		if err := k.unreadyPods(ctx, node); err != nil {
			return err
		}
	}
	if err := k.taint(ctx, node); err != nil {
		return err
	}
	if wait > 0 {
		return &engine.Retry{After: wait, Why: "it is heard of by then, or lost"}
	}
	return nil
}

// tell records an event about a node.
func (k *keeper) tell(node string, uid types.UID, reason, message string) {
	k.d.Recorder.Event(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node, UID: uid}, corev1.EventTypeNormal, reason, message)
}

// knownNodes are the UIDs of nodes, by name.
type knownNodes struct {
	mu   sync.Mutex
	uids map[string]types.UID
}

// set replaces what is known of a node, empty for nothing, and returns what was.
func (k *knownNodes) set(name string, uid types.UID) (was types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if was = k.uids[name]; uid == "" {
		delete(k.uids, name)
	} else {
		k.uids[name] = uid
	}
	return was
}

func (k *keeper) taint(ctx context.Context, node *corev1.Node) error {
	taints := desired(node, k.ready.any(), metav1.Now())
	if slices.EqualFunc(taints, node.Spec.Taints, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) }) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return err
	}
	_, err = k.d.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the change that came first queues the node again
	}
	if err != nil {
		return fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return nil
}

// readyNodes is the set of the nodes that are ready.
type readyNodes struct {
	mu    sync.Mutex
	names map[string]bool
}

// set records whether a node is ready, and says whether there is one now and was none, or the reverse.
func (r *readyNodes) set(name string, ready bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.names) > 0
	if ready {
		r.names[name] = true
	} else {
		delete(r.names, name)
	}
	return before != (len(r.names) > 0)
}

// any says whether there is a node where the Pods of one that is not ready could run. If none is ready, it is more likely
// that the fault is here, and nothing is evicted.
func (r *readyNodes) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.names) > 0
}

// evicting are the taints that evict Pods, beside keeping new ones away.
var evicting = []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}

// desired returns the node's taints with those that stand for conditions put right; all others stay as they are. evict
// says whether a node that is not ready is to lose its Pods.
func desired(node *corev1.Node, evict bool, now metav1.Time) []corev1.Taint {
	want := map[string]bool{corev1.TaintNodeUnschedulable: node.Spec.Unschedulable}
	for _, byStatus := range taintFor {
		for _, key := range byStatus {
			want[key] = false
		}
	}
	for _, c := range node.Status.Conditions {
		if key, ok := taintFor[c.Type][c.Status]; ok {
			want[key] = true
		}
	}
	evicts := map[string]bool{}
	for _, key := range evicting {
		evicts[key] = want[key] && evict
	}
	out := []corev1.Taint{}
	for _, t := range node.Spec.Taints {
		if wanted, ours := evicts[t.Key]; ours && t.Effect == corev1.TaintEffectNoExecute {
			if wanted {
				out = append(out, t)
			}
			delete(evicts, t.Key)
			continue
		}
		wanted, ours := want[t.Key]
		if t.Effect != corev1.TaintEffectNoSchedule || !ours {
			out = append(out, t)
		} else if wanted {
			out = append(out, t)
			delete(want, t.Key)
		}
	}
	var missing []string
	for key, wanted := range want {
		if wanted {
			missing = append(missing, key)
		}
	}
	slices.Sort(missing)
	for _, key := range missing {
		out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, key := range evicting {
		if evicts[key] {
			out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &now})
		}
	}
	return out
}
