package replicaset

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

const (
	// burst is how many Pods a set makes or deletes at most before it looks again.
	burst = 500
)

// sync brings one set to its declared number of Pods and writes its status.
func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	if !c.control.Pending.Settled(key) { // before anything is read: what is settled now is shown
		return pods.Behind()
	}
	s, err := c.source.get(key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	mine, err := c.control.Claim(ctx, s.owner, s.selector, func(ctx context.Context) (metav1.Object, error) {
		return c.source.fresh(ctx, key.Namespace, key.Name)
	})
	if err != nil {
		return fmt.Errorf("claim pods: %w", err)
	}
	var active, terminating []*corev1.Pod
	for _, p := range mine {
		switch {
		case pods.Active(p):
			active = append(active, p)
		case pods.Terminating(p):
			terminating = append(terminating, p)
		}
	}
	var manageErr error
	if s.owner.GetDeletionTimestamp() == nil {
		manageErr = c.manage(ctx, s, active)
	}
	now := time.Now()
	next, again := statusOf(s, active, terminating, manageErr, now)
	if !equality.Semantic.DeepEqual(next, s.status) {
		s.status = next
		switch now, err := c.source.writeStatus(ctx, s); {
		case err == nil:
			c.control.Pending.Wrote(now)
		case !isOver(err):
			return errors.Join(manageErr, fmt.Errorf("write status: %w", err))
		}
	}
	switch {
	case manageErr != nil:
		return manageErr
	case !again.IsZero():
		return &engine.Retry{After: again.Sub(now), Why: "a pod becomes available"}
	case c.control.Pending.AwaitsPods(key):
		return pods.Behind()
	}
	return nil
}

// manage makes missing Pods or deletes surplus ones.
func (c *controller) manage(ctx context.Context, s *set, active []*corev1.Pod) error {
	diff := len(active) - s.wanted()
	switch {
	case diff < 0:
		n := min(-diff, burst)
		klog.FromContext(ctx).V(2).Info("Too few replicas", "set", klog.KObj(s.owner), "need", s.wanted(), "creating", n)
		_, err := pods.SlowStart(n, func(int) error {
			_, err := c.control.Create(ctx, s.owner, c.control.FromTemplate(s.owner, &s.spec.Template))
			if err != nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // nothing can be made there, and the set goes too
			}
			return err
		})
		return err
	case diff > 0:
		n := min(diff, burst)
		klog.FromContext(ctx).V(2).Info("Too many replicas", "set", klog.KObj(s.owner), "need", s.wanted(), "deleting", n)
		surplus, err := c.choose(s, active, n)
		if err != nil {
			return err
		}
		return pods.Each(len(surplus), func(i int) error { return c.control.Delete(ctx, s.owner, surplus[i]) })
	}
	return nil
}

// choose returns the n of the Pods that go first.
func (c *controller) choose(s *set, active []*corev1.Pod, n int) ([]*corev1.Pod, error) {
	if n >= len(active) {
		return active, nil
	}
	list, err := c.source.list(s.owner.GetNamespace())
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	onNode := map[string]int{}
	for uid := range siblings(list, s) {
		for _, p := range c.control.Index.Owned(uid) {
			if pods.Active(p) {
				onNode[p.Spec.NodeName]++
			}
		}
	}
	pods.RankForDeletion(active, func(p *corev1.Pod) int { return onNode[p.Spec.NodeName] }, time.Now())
	return active[:n], nil
}
