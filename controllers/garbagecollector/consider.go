package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// consider deletes the object if no owner of it is left, or goes on with its foreground deletion.
func (c *Collector) consider(ctx context.Context, uid types.UID) error {
	n, blocking, dependents, ok := c.look(uid)
	if !ok {
		return nil
	}
	if n.virtual {
		return c.confirm(ctx, n)
	}
	if n.deleting && !n.foreground {
		return nil // it is on its way
	}
	obj, err := c.live(ctx, n.identity)
	if err != nil {
		return err
	}
	if obj == nil {
		c.gone(uid) // its event is late, or was missed
		return nil
	}
	if n.foreground {
		return c.foreground(ctx, n, obj, blocking)
	}
	return c.owned(ctx, n, obj, dependents)
}

// confirm looks whether an owner exists that was only named. One that does not sets its dependents free to be considered.
func (c *Collector) confirm(ctx context.Context, n node) error {
	id, err := c.resolve(n.reference, n.namespace)
	if meta.IsNoMatchError(err) && !c.coming(n.reference) {
		return nil // a kind that this server does not have: nothing is known, so nothing is deleted until it is defined
	}
	if err != nil {
		return err
	}
	obj, err := c.live(ctx, id)
	if err != nil {
		return err
	}
	if obj == nil {
		c.gone(n.uid)
		return nil
	}
	// It exists: its own event says the rest. Kinds that are not watched have none, so note what was seen.
	c.mu.Lock()
	t := c.graph.set(nodeOf(id.resource, obj))
	c.mu.Unlock()
	c.queue(t)
	return nil
}

// foreground goes on deleting n's dependents, and lets n itself go when none is left that holds it.
func (c *Collector) foreground(ctx context.Context, n node, obj *metav1.PartialObjectMetadata, blocking []node) error {
	if len(blocking) == 0 {
		return c.dropFinalizer(ctx, n.identity, obj, metav1.FinalizerDeleteDependents)
	}
	for _, d := range blocking {
		if !d.foreground {
			c.remove.Add(d.uid)
		}
	}
	// Objects that own each other would wait for each other for ever: nobody in the circle waits for this one.
	owners, changed := slices.Clone(obj.OwnerReferences), false
	c.mu.Lock()
	waiting := c.graph.awaits(n.uid)
	c.mu.Unlock()
	for i := range owners {
		if waiting.Has(owners[i].UID) && blocks(owners[i]) {
			owners[i].BlockOwnerDeletion, changed = ptr.To(false), true
		}
	}
	if !changed {
		return nil
	}
	return c.setOwners(ctx, n.identity, obj, owners)
}

// owned looks at the owners of n and deletes it where none is left.
func (c *Collector) owned(ctx context.Context, n node, obj *metav1.PartialObjectMetadata, dependents int) error {
	if len(obj.OwnerReferences) == 0 {
		return nil
	}
	var solid, dangling, waiting []metav1.OwnerReference
	for _, ref := range obj.OwnerReferences {
		state, err := c.owner(ctx, ref, n.namespace)
		if err != nil {
			return err
		}
		switch state {
		case ownerThere:
			solid = append(solid, ref)
		case ownerGone:
			dangling = append(dangling, ref)
		case ownerWaits:
			waiting = append(waiting, ref)
		}
	}
	switch {
	case len(solid) > 0 && len(dangling)+len(waiting) == 0:
		return nil
	case len(solid) > 0:
		return c.setOwners(ctx, n.identity, obj, solid)
	case len(waiting) > 0 && dependents > 0:
		// Its owner waits for it, and it for its own dependents: all the way down, dependents go first.
		return c.delete(ctx, n.identity, obj, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	if slices.Contains(obj.Finalizers, metav1.FinalizerOrphanDependents) {
		policy = metav1.DeletePropagationOrphan
	} else if slices.Contains(obj.Finalizers, metav1.FinalizerDeleteDependents) {
		policy = metav1.DeletePropagationForeground
	}
	return c.delete(ctx, n.identity, obj, policy)
}

type ownerState int

const (
	ownerThere ownerState = iota
	ownerGone
	// ownerWaits is one that is there only until its dependents are gone.
	ownerWaits
)

// owner asks the API for an owner, unless the graph has seen it: the graph may be late with what is new, but never invents.
func (c *Collector) owner(ctx context.Context, ref metav1.OwnerReference, namespace string) (ownerState, error) {
	c.mu.Lock()
	known := c.graph.nodes[ref.UID]
	if known != nil && !known.virtual {
		// One in another namespace is no owner, whatever its UID (KEP-2336).
		foreign := known.namespace != "" && known.namespace != namespace
		waits := known.foreground
		c.mu.Unlock()
		switch {
		case foreign:
			return ownerGone, nil
		case waits:
			return ownerWaits, nil
		}
		return ownerThere, nil
	}
	_, ended := c.graph.ended.Get(ref.UID)
	c.mu.Unlock()
	if ended {
		return ownerGone, nil
	}
	id, err := c.resolve(ref, namespace)
	if meta.IsNoMatchError(err) {
		return ownerThere, nil // nothing is known of the kind, so nothing is deleted
	}
	if err != nil {
		return 0, err
	}
	obj, err := c.live(ctx, id)
	switch {
	case err != nil:
		return 0, err
	case obj == nil:
		return ownerGone, nil
	case obj.DeletionTimestamp != nil && slices.Contains(obj.Finalizers, metav1.FinalizerDeleteDependents):
		return ownerWaits, nil
	}
	return ownerThere, nil
}

// delete deletes what was read as obj, unless it has other owners by now: it may have been let go since they were looked at, and whoever
// is let go stays. Other changes of it do not matter.
func (c *Collector) delete(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	for now := obj; ; {
		err := c.client(id).Delete(ctx, id.name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &id.uid, ResourceVersion: &now.ResourceVersion}, PropagationPolicy: &policy})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		failed := fmt.Errorf("delete %s %s/%s: %w", id.resource.Resource, id.namespace, id.name, err)
		if !apierrors.IsConflict(err) {
			return failed
		}
		before := now.ResourceVersion
		if now, err = c.live(ctx, id); now == nil || err != nil {
			return err
		}
		if now.ResourceVersion == before || !equality.Semantic.DeepEqual(now.OwnerReferences, obj.OwnerReferences) {
			return failed // and it is considered again
		}
	}
}

// letGo takes the owner off its dependents and then lets it go itself.
func (c *Collector) letGo(ctx context.Context, uid types.UID) error {
	c.mu.Lock()
	n := c.graph.nodes[uid]
	if n == nil || !n.orphaning {
		c.mu.Unlock()
		return nil
	}
	owner := n.identity
	var dependents []identity
	for _, d := range n.dependents {
		dependents = append(dependents, d.identity)
	}
	c.mu.Unlock()
	for _, d := range dependents {
		obj, err := c.live(ctx, d)
		if err != nil {
			return err
		}
		if obj == nil {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(obj.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == uid })
		if len(left) == len(obj.OwnerReferences) {
			continue
		}
		if err := c.setOwners(ctx, d, obj, left); err != nil {
			return err
		}
	}
	obj, err := c.live(ctx, owner)
	if err != nil || obj == nil {
		return err
	}
	return c.dropFinalizer(ctx, owner, obj, metav1.FinalizerOrphanDependents)
}

// setOwners replaces the owner references of what was read as obj.
func (c *Collector) setOwners(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, owners []metav1.OwnerReference) error {
	if owners == nil {
		owners = []metav1.OwnerReference{}
	}
	return c.patch(ctx, id, obj, "ownerReferences", owners)
}

// dropFinalizer takes a finalizer off what was read as obj.
func (c *Collector) dropFinalizer(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, finalizer string) error {
	left := slices.DeleteFunc(slices.Clone(obj.Finalizers), func(f string) bool { return f == finalizer })
	if len(left) == len(obj.Finalizers) {
		return nil
	}
	return c.patch(ctx, id, obj, "finalizers", left)
}

// patch replaces a field of the metadata of exactly what was read: a conflict is retried with what is there then.
func (c *Collector) patch(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, field string, value any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.UID, "resourceVersion": obj.ResourceVersion, field: value}})
	if err != nil {
		return err
	}
	_, err = c.client(id).Patch(ctx, id.name, types.MergePatchType, body, metav1.PatchOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("set %s of %s %s/%s: %w", field, id.resource.Resource, id.namespace, id.name, err)
}
