package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"k8s.io/client-go/tools/cache"
)

const (
	// DefaultGracePeriod is how long a node may be silent, as upstream's: a connection that was cut off without a word is given up
	// after 45 s (client-go's HTTP/2 pings), and the node heard of again.
	DefaultGracePeriod = 50 * time.Second
	// startupGracePeriod is how long a new one may be, that has not said anything yet.
	startupGracePeriod = 60 * time.Second
)

// heartbeats remembers when each node was last heard of, by this process' clock: the node's own may be wrong, and this
// one's stands still while the machine is suspended. After a start all nodes have just been heard of.
type heartbeats struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func (h *heartbeats) beat(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[node] = time.Now()
}

// last returns when a node was last heard of; now, if it was not asked for before.
func (h *heartbeats) last(node string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.seen[node]
	if !ok {
		t = time.Now()
		h.seen[node] = t
	}
	return t
}

func (h *heartbeats) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.seen, node)
}

// onLease hears of nodes by their leases.
func (h *heartbeats) onLease() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if l := o.(*coordinationv1.Lease); l.Namespace == corev1.NamespaceNodeLease {
				h.last(l.Name)
			}
		},
		UpdateFunc: func(old, now any) {
			was, is := old.(*coordinationv1.Lease), now.(*coordinationv1.Lease)
			if is.Namespace == corev1.NamespaceNodeLease && !is.Spec.RenewTime.Equal(was.Spec.RenewTime) {
				h.beat(is.Name)
			}
		},
	}
}

func readyCondition(node *corev1.Node) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c
		}
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	c := readyCondition(node)
	return c != nil && c.Status == corev1.ConditionTrue
}

// silentFor returns how long a node, which may be silent for grace, may still be; not above zero: it has been for too long.
func silentFor(node *corev1.Node, last time.Time, grace time.Duration) time.Duration {
	if readyCondition(node) == nil {
		grace = startupGracePeriod
	}
	return grace - time.Since(last)
}

// unknown returns the conditions of a node that nothing is heard of any more. It is a pure function.
func unknown(node *corev1.Node, now metav1.Time) []corev1.NodeCondition {
	list := slices.Clone(node.Status.Conditions)
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		i := slices.IndexFunc(list, func(c corev1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			list = append(list, corev1.NodeCondition{Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
				Message: "Kubelet never posted node status.", LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now})
		case list[i].Status != corev1.ConditionUnknown:
			list[i].Status, list[i].Reason, list[i].Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			list[i].LastTransitionTime = now
		}
	}
	return list
}

// lose marks a node that nothing is heard of any more.
func (k *keeper) lose(ctx context.Context, node *corev1.Node) error {
	if c := readyCondition(node); c != nil && c.Status == corev1.ConditionUnknown {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": node.ResourceVersion},
		"status": map[string]any{"conditions": unknown(node, metav1.Now())}})
	if err != nil {
		return err
	}
	_, err = k.d.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the change that came first queues the node again
	}
	if err != nil {
		return fmt.Errorf("mark node %s as unknown: %w", node.Name, err)
	}
	k.tell(node.Name, node.UID, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", node.Name))
	return nil
}

// unreadyPods marks the Pods of a node that is not ready, so that no traffic is sent to them.
func (k *keeper) unreadyPods(ctx context.Context, node *corev1.Node) error {
	pods, err := k.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list Pods: %w", err)
	}
	for _, p := range pods {
		if p.Spec.NodeName != node.Name {
			continue
		}
		i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		if i < 0 {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}}}})
		if err != nil {
			return err
		}
		_, err = k.d.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark Pod %s/%s as not ready: %w", p.Namespace, p.Name, err)
		}
		k.d.Recorder.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
