// Package tainteviction deletes Pods from nodes with NoExecute taints that they do not tolerate, or no longer.
package tainteviction

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "node-controller"

// Source is the component that events come from; upstream's.
const Source = "taint-eviction-controller"

type evictor struct {
	d     engine.Deps
	nodes corelisters.NodeLister
	pods  corelisters.PodLister
}

// New returns the controller. A key is a Pod; a node whose taints change queues its Pods.
func New(d engine.Deps) (engine.Runner, error) {
	nodes, pods := d.Informers.Core().V1().Nodes(), d.Informers.Core().V1().Pods()
	e := &evictor{d, nodes.Lister(), pods.Lister()}
	loop := &engine.Loop{Name: "taint-eviction", Workers: 4, Sync: e.sync}
	queue := engine.Object(loop)
	podsSynced, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: queue,
		UpdateFunc: func(old, now any) {
			was, is := old.(*corev1.Pod), now.(*corev1.Pod)
			if was.Spec.NodeName != is.Spec.NodeName || len(was.Spec.Tolerations) != len(is.Spec.Tolerations) {
				queue(is)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	of := func(node *corev1.Node, do func(*corev1.Pod)) {
		list, err := e.pods.List(labels.Everything())
		if err != nil {
			return // a lister of a store in memory does not fail
		}
		for _, p := range list {
			if p.Spec.NodeName == node.Name {
				do(p)
			}
		}
	}
	nodesSynced, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if node := o.(*corev1.Node); len(evicting(node)) > 0 {
				of(node, func(p *corev1.Pod) { queue(p) })
			}
		},
		UpdateFunc: func(old, now any) {
			node, was := now.(*corev1.Node), evicting(old.(*corev1.Node))
			if !slices.EqualFunc(was, evicting(node), func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
				of(node, func(p *corev1.Pod) {
					queue(p)
					e.spare(p, was, evicting(node))
				})
			}
		},
	})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{podsSynced.HasSyncedChecker(), nodesSynced.HasSyncedChecker()}
	return loop, nil
}

func evicting(node *corev1.Node) []corev1.Taint {
	var list []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			list = append(list, t)
		}
	}
	return list
}

func (e *evictor) sync(ctx context.Context, key cache.ObjectName) error {
	pod, err := e.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Spec.NodeName == "") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Pod %s: %w", key, err)
	}
	node, err := e.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	at, evict := deadline(evicting(node), pod.Spec.Tolerations, time.Now())
	if !evict {
		return nil
	}
	if wait := time.Until(at); wait > 0 {
		return &engine.Retry{After: wait, Why: "it tolerates the node's taints until then"}
	}
	return e.evict(ctx, pod)
}

// spare says of a Pod that it stays, where it was to go later and the taints that it was to go for are no more.
func (e *evictor) spare(pod *corev1.Pod, was, is []corev1.Taint) {
	now := time.Now()
	at, evict := deadline(was, pod.Spec.Tolerations, now)
	if !evict || !at.After(now) || pod.DeletionTimestamp != nil {
		return
	}
	if _, evict = deadline(is, pod.Spec.Tolerations, now); !evict {
		e.d.Recorder.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", fmt.Sprintf("Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name))
	}
}

// deadline says when a Pod has to go, if ever: at once where it does not tolerate a taint, else when the shortest of its
// tolerations is over. It is a pure function.
func deadline(taints []corev1.Taint, tolerations []corev1.Toleration, now time.Time) (at time.Time, evict bool) {
	for i := range taints {
		taint, tolerated := &taints[i], false
		since := now
		if taint.TimeAdded != nil {
			since = taint.TimeAdded.Time
		}
		for j := range tolerations {
			t := &tolerations[j]
			if !t.ToleratesTaint(klog.Background(), taint, true) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds == nil {
				continue
			}
			end := since.Add(time.Duration(max(0, *t.TolerationSeconds)) * time.Second)
			if !evict || end.Before(at) {
				at, evict = end, true
			}
		}
		if !tolerated {
			return now, true
		}
	}
	return at, evict
}

// evict deletes the Pod after saying why.
func (e *evictor) evict(ctx context.Context, pod *corev1.Pod) error {
	e.d.Recorder.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", fmt.Sprintf("Marking for deletion Pod %s/%s", pod.Namespace, pod.Name))
	_, err := pods.Disrupt(ctx, e.d.Client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
	return err
}
