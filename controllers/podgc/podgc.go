// Package podgc deletes Pods whose node is no more: nobody else would ever say that they have ended.
package podgc

import (
	"context"
	"encoding/json"
	"fmt"
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

// quarantine is how long a node must have been away: a kubelet whose Node was deleted makes it again.
const quarantine = 40 * time.Second

type collector struct {
	d     engine.Deps
	nodes corelisters.NodeLister
	pods  corelisters.PodLister

	mu   sync.Mutex
	away map[string]time.Time // by node, when it was first missed
}

// New returns the controller. A key is a Pod; a node that goes queues its Pods.
func New(d engine.Deps) (engine.Runner, error) {
	nodes, pods := d.Informers.Core().V1().Nodes(), d.Informers.Core().V1().Pods()
	c := &collector{d: d, nodes: nodes.Lister(), pods: pods.Lister(), away: map[string]time.Time{}}
	loop := &engine.Loop{Name: Name, Workers: 4, Sync: c.sync}
	queue := engine.Object(loop)
	podsSynced, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: queue,
		UpdateFunc: func(old, now any) {
			if old.(*corev1.Pod).Spec.NodeName != now.(*corev1.Pod).Spec.NodeName {
				queue(now)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	nodesSynced, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.away, o.(*corev1.Node).Name)
		},
		DeleteFunc: func(o any) {
			name, err := cache.DeletionHandlingObjectToName(o)
			if err != nil {
				return
			}
			list, err := c.pods.List(labels.Everything())
			if err != nil {
				return // a lister of a store in memory does not fail
			}
			for _, p := range list {
				if p.Spec.NodeName == name.Name {
					queue(p)
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{podsSynced.HasSyncedChecker(), nodesSynced.HasSyncedChecker()}
	return loop, nil
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
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && pod.Spec.NodeName == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Pod %s: %w", key, err)
	}
	if _, err := c.nodes.Get(pod.Spec.NodeName); !apierrors.IsNotFound(err) {
		return err
	}
	if wait := quarantine - time.Since(c.missedSince(pod.Spec.NodeName)); wait > 0 {
		return &engine.Retry{After: wait, Why: "its node may come again"}
	}
	// The informer may be behind.
	if _, err := c.d.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	return c.remove(ctx, pod)
}

// remove ends the Pod in the API at once: there is nobody to wait for.
func (c *collector) remove(ctx context.Context, pod *corev1.Pod) error {
	pods := c.d.Client.CoreV1().Pods(pod.Namespace)
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"phase": corev1.PodFailed,
			"conditions": []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
				Message: "PodGC: node no longer exists", LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation}}}})
		if err != nil {
			return err
		}
		if _, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark orphaned Pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	now, uid := int64(0), pod.UID
	err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete orphaned Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
