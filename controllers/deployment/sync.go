package deployment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// sync takes a Deployment one step on and writes its status. What it changes comes back as an event, which takes the next.
func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	shown, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read deployment: %w", err)
	}
	d := shown.DeepCopy()
	if equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		c.recorder.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		d.Status.ObservedGeneration = d.Generation
		return c.write(ctx, shown, d)
	}
	sets, err := c.claimSets(ctx, d)
	if err != nil {
		return err
	}
	now := time.Now()
	stepErr := c.step(ctx, d, sets, now)
	if isOver(stepErr) {
		return nil
	}
	if err := c.write(ctx, shown, d); err != nil || stepErr != nil {
		var again *collision
		if errors.As(stepErr, &again) {
			stepErr = nil // the new count comes back as an event
		}
		if apierrors.HasStatusCause(stepErr, corev1.NamespaceTerminatingCause) {
			stepErr = nil // all goes
		}
		return errors.Join(stepErr, err)
	}
	if at := checkAt(d, &d.Status); !at.IsZero() {
		return &engine.Retry{After: max(time.Second, at.Sub(now)), Why: "the progress deadline"}
	}
	return nil
}

// write writes what differs between the Deployment that the informer shows and what it is to be: status and annotations.
func (c *controller) write(ctx context.Context, shown, d *appsv1.Deployment) error {
	if equality.Semantic.DeepEqual(shown.Status, d.Status) && maps.Equal(shown.Annotations, d.Annotations) {
		return nil
	}
	_, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	if err != nil && !isOver(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// step does what is to be done next about a Deployment's ReplicaSets, and puts what is to be said of it into d.
func (c *controller) step(ctx context.Context, d *appsv1.Deployment, sets []*appsv1.ReplicaSet, now time.Time) error {
	newest, olds := split(d, sets)
	if d.DeletionTimestamp != nil {
		d.Status = count(d, newest, olds, now)
		return nil
	}
	notePause(d, now)
	switch {
	case d.Spec.Paused || wasScaled(d, sets):
		return c.onlyScale(ctx, d, newest, olds, now)
	case isRolling(d):
		return c.roll(ctx, d, newest, olds, now)
	}
	return c.recreate(ctx, d, newest, olds, now)
}

// onlyScale answers a change of size, which a paused Deployment does too.
func (c *controller) onlyScale(ctx context.Context, d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, now time.Time) error {
	newest, err := c.ensure(ctx, d, newest, olds, false, now)
	if err != nil {
		return err
	}
	if err := c.resize(ctx, d, proportional(d, newest, olds)); err != nil {
		return err
	}
	if d.Spec.Paused {
		if err := c.forget(ctx, d, olds); err != nil {
			return err
		}
	}
	d.Status = count(d, newest, olds, now)
	return nil
}

func (c *controller) roll(ctx context.Context, d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, now time.Time) error {
	newest, err := c.ensure(ctx, d, newest, olds, true, now)
	if err != nil {
		return err
	}
	return c.finish(ctx, d, newest, olds, rolling(d, newest, olds), now)
}

// recreate makes the new ReplicaSet only when no Pod of the old ones runs any more.
func (c *controller) recreate(ctx context.Context, d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, now time.Time) error {
	var down []resize
	for _, rs := range active(olds) {
		down = append(down, resize{rs, 0})
	}
	waiting := len(down) > 0 || sum(olds, existing) > 0 || slices.ContainsFunc(olds, c.running)
	newest, err := c.ensure(ctx, d, newest, olds, !waiting, now)
	if err != nil {
		return err
	}
	if waiting {
		return c.finish(ctx, d, newest, olds, down, now)
	}
	var up []resize
	if size(newest) != desired(d) {
		up = []resize{{newest, desired(d)}}
	}
	return c.finish(ctx, d, newest, olds, up, now)
}

// running says whether a Pod of the ReplicaSet may still run, those that are being deleted among them.
func (c *controller) running(rs *appsv1.ReplicaSet) bool {
	return slices.ContainsFunc(c.pods.Owned(rs.UID), func(p *corev1.Pod) bool { return !ended(p) })
}

// finish carries out decisions, or removes old history where there are none, and puts the status into d.
func (c *controller) finish(ctx context.Context, d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, todo []resize, now time.Time) error {
	if err := c.resize(ctx, d, todo); err != nil {
		return err
	}
	if len(todo) == 0 && complete(d, &d.Status) {
		if err := c.forget(ctx, d, olds); err != nil {
			return err
		}
	}
	d.Status = report(d, newest, olds, now)
	return nil
}

// resize scales ReplicaSets, with an event for each.
func (c *controller) resize(ctx context.Context, d *appsv1.Deployment, todo []resize) error {
	for _, r := range todo {
		was, next := size(r.rs), r.rs.DeepCopy()
		next.Spec.Replicas, next.Annotations = &r.to, sized(d, r.rs.Annotations)
		if was == r.to && maps.Equal(next.Annotations, r.rs.Annotations) {
			continue
		}
		if _, err := c.client.AppsV1().ReplicaSets(next.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("scale replica set %s: %w", next.Name, err)
		}
		way := "up"
		if r.to < was {
			way = "down"
		}
		if r.to != was {
			c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, next.Name, was, r.to)
		}
	}
	return nil
}

// forget deletes the oldest ReplicaSets that are more than the history is to hold, and have no Pods.
func (c *controller) forget(ctx context.Context, d *appsv1.Deployment, olds []*appsv1.ReplicaSet) error {
	if d.Spec.RevisionHistoryLimit == nil || *d.Spec.RevisionHistoryLimit == math.MaxInt32 {
		return nil
	}
	for _, rs := range surplus(olds, int(*d.Spec.RevisionHistoryLimit)) {
		err := c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !isOver(err) {
			return fmt.Errorf("delete replica set %s: %w", rs.Name, err)
		}
	}
	return nil
}

// surplus are the ReplicaSets beyond the limit, the oldest revisions first, but none that has or is to have Pods.
func surplus(olds []*appsv1.ReplicaSet, limit int) []*appsv1.ReplicaSet {
	alive := slices.DeleteFunc(slices.Clone(olds), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	if len(alive) <= limit {
		return nil
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		if ra, rb := revision(a.Annotations), revision(b.Annotations); ra != rb {
			return int(max(-1, min(1, ra-rb)))
		}
		return compareAge(a, b)
	})
	return slices.DeleteFunc(alive[:len(alive)-limit], func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas != 0 || size(rs) != 0 || rs.Generation > rs.Status.ObservedGeneration
	})
}
