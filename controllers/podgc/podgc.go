// Package podgc deletes Pods of which nobody else would ever say that they have ended: those whose node is no more, those
// that are being deleted on a node that its administrator has declared out of service, those that are being deleted and
// never had a node, and, when there are very many, the oldest of those that have ended.
package podgc

import (
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

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "pod-garbage-collector"

// settings are what tests change.
type settings struct {
	// quarantine is how long a node must have been away: a kubelet whose Node was deleted makes it again.
	quarantine time.Duration
	// keep is how many Pods that have ended are kept, in the whole cluster.
	keep int
}

// standard are upstream's values.
var standard = settings{quarantine: 40 * time.Second, keep: 12500}

type collector struct {
	settings
	d     engine.Deps
	nodes corelisters.NodeLister
	pods  corelisters.PodLister
	index cache.Indexer

	mu   sync.Mutex
	away map[string]time.Time // by node, when it was first missed
}

// New returns the controller. A key is a Pod; a node that goes or is out of service queues its Pods.
func New(d engine.Deps) (engine.Runner, error) { return newCollector(d, standard) }

func newCollector(d engine.Deps, s settings) (*engine.Loop, error) {
	nodes, pods := d.Informers.Core().V1().Nodes(), d.Informers.Core().V1().Pods()
	c := &collector{settings: s, d: d, nodes: nodes.Lister(), pods: pods.Lister(), index: pods.Informer().GetIndexer(), away: map[string]time.Time{}}
	if err := pods.Informer().AddIndexers(cache.Indexers{byEnd: endIndex}); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	loop := &engine.Loop{Name: Name, Workers: 4, Sync: c.sync}
	queue := engine.Object(loop)
	podsSynced, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(now any) {
			queue(now)
			if ended(now.(*corev1.Pod)) {
				loop.Add(tooMany)
			}
		},
		UpdateFunc: func(oldObj, nowObj any) {
			old, now := oldObj.(*corev1.Pod), nowObj.(*corev1.Pod)
			if old.Spec.NodeName != now.Spec.NodeName || (old.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil) {
				queue(now)
			}
			if !ended(old) && ended(now) {
				loop.Add(tooMany)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	nodesSynced, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			node := o.(*corev1.Node)
			c.mu.Lock()
			delete(c.away, node.Name)
			c.mu.Unlock()
			if outOfService(node) {
				c.queuePods(node.Name, queue)
			}
		},
		UpdateFunc: func(old, now any) {
			if node := now.(*corev1.Node); outOfService(node) && !outOfService(old.(*corev1.Node)) {
				c.queuePods(node.Name, queue)
			}
		},
		DeleteFunc: func(o any) {
			if name, err := cache.DeletionHandlingObjectToName(o); err == nil {
				c.queuePods(name.Name, queue)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{podsSynced.HasSyncedChecker(), nodesSynced.HasSyncedChecker()}
	return loop, nil
}

// queuePods queues the Pods of a node.
func (c *collector) queuePods(node string, queue func(any)) {
	list, err := c.pods.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, p := range list {
		if p.Spec.NodeName == node {
			queue(p)
		}
	}
}

// outOfService says whether an administrator has declared that nothing runs on the node any more. One that is ready
// contradicts him: its Pods may still run.
func outOfService(node *corev1.Node) bool {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// missedSince returns when a node was first missed.
func (c *collector) missedSince(node string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.away[node]
	if !ok {
		t = time.Now()
		c.away[node] = t
	}
	return t
}

func (c *collector) sync(ctx context.Context, key cache.ObjectName) error {
	if key == tooMany {
		return c.thin(ctx)
	}
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Pod %s: %w", key, err)
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp == nil {
			return nil
		}
		return c.remove(ctx, pod, nil)
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err == nil {
		if pod.DeletionTimestamp == nil || !outOfService(node) {
			return nil
		}
		return c.remove(ctx, pod, nil)
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	if wait := c.quarantine - time.Since(c.missedSince(pod.Spec.NodeName)); wait > 0 {
		return &engine.Retry{After: wait, Why: "its node may come again"}
	}
	// The informer may be behind.
	if _, err := c.d.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	return c.remove(ctx, pod, []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
		LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation}})
}

// remove ends the Pod in the API at once, with the conditions: there is nobody to wait for.
func (c *collector) remove(ctx context.Context, pod *corev1.Pod, conditions []corev1.PodCondition) error {
	pods := c.d.Client.CoreV1().Pods(pod.Namespace)
	if !ended(pod) {
		status := map[string]any{"phase": corev1.PodFailed}
		if len(conditions) > 0 {
			status["conditions"] = conditions // null would remove those that are there
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
		if err != nil {
			return err
		}
		_, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark Pod %s/%s as failed: %w", pod.Namespace, pod.Name, err)
		}
	}
	now, uid := int64(0), pod.UID
	err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
