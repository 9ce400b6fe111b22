// Package claim decides which objects belong to a controller by their labels: those that match are adopted if nobody
// controls them, those that no longer match are released.
package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// Claim is what an owner wants. Objects are as an informer shows them, and are not changed.
type Claim[T metav1.Object] struct {
	Owner metav1.Object
	// Kind is the owner's.
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Owned are the objects that the owner controls, Free those of its namespace that nobody controls.
	Owned, Free []T
	// Member, if not nil, says what besides its labels makes an object one of the owner's.
	Member func(T) bool
	// Adoptable, if not nil, says whether a free object that matches is worth adopting.
	Adoptable func(T) bool
	// Fresh reads the owner from the API, once and only before something is adopted: one that is being deleted, or has been
	// replaced by one of the same name, adopts nothing.
	Fresh func(context.Context) (metav1.Object, error)
	// Finalizer, if not empty, is put on what is adopted and taken off what is released.
	Finalizer string
	// Patch applies a strategic merge patch.
	Patch func(ctx context.Context, namespace, name string, body []byte) error
}

// Run adopts and releases, and returns the objects that are the owner's: also on an error, as far as is known then.
func (c *Claim[T]) Run(ctx context.Context) ([]T, error) {
	var mine []T
	var errs []error
	deleting := c.Owner.GetDeletionTimestamp() != nil
	for _, o := range c.Owned {
		if c.matches(o) {
			mine = append(mine, o)
		} else if !deleting {
			errs = append(errs, c.release(ctx, o))
		}
	}
	if deleting {
		return mine, nil
	}
	var wanted []T
	for _, o := range c.Free {
		if o.GetDeletionTimestamp() == nil && c.matches(o) && (c.Adoptable == nil || c.Adoptable(o)) {
			wanted = append(wanted, o)
		}
	}
	if len(wanted) == 0 {
		return mine, errors.Join(errs...)
	}
	switch now, err := c.Fresh(ctx); {
	case apierrors.IsNotFound(err):
		return mine, errors.Join(errs...)
	case err != nil:
		return mine, errors.Join(append(errs, fmt.Errorf("read owner before adopting: %w", err))...)
	case now.GetUID() != c.Owner.GetUID() || now.GetDeletionTimestamp() != nil:
		return mine, errors.Join(errs...)
	}
	for _, o := range wanted {
		adopted, err := c.adopt(ctx, o)
		errs = append(errs, err)
		if adopted {
			mine = append(mine, o)
		}
	}
	return mine, errors.Join(errs...)
}

func (c *Claim[T]) matches(o T) bool {
	return Matches(c.Selector, o.GetLabels()) && (c.Member == nil || c.Member(o))
}

// adopt makes the owner the controller of o. It says false where o is gone or another controller was first.
func (c *Claim[T]) adopt(ctx context.Context, o T) (bool, error) {
	metadata := map[string]any{"uid": o.GetUID(), "ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(c.Owner, c.Kind)}}
	if c.Finalizer != "" {
		metadata["finalizers"] = []string{c.Finalizer}
	}
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return false, err
	}
	err = c.Patch(ctx, o.GetNamespace(), o.GetName(), body)
	if lost(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt %s/%s: %w", o.GetNamespace(), o.GetName(), err)
	}
	return true, nil
}

// release takes the owner off o.
func (c *Claim[T]) release(ctx context.Context, o T) error {
	metadata := map[string]any{"uid": o.GetUID(), "ownerReferences": []map[string]any{{"$patch": "delete", "uid": c.Owner.GetUID()}}}
	if c.Finalizer != "" {
		metadata["$deleteFromPrimitiveList/finalizers"] = []string{c.Finalizer}
	}
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	if err := c.Patch(ctx, o.GetNamespace(), o.GetName(), body); err != nil && !lost(err) {
		return fmt.Errorf("release %s/%s: %w", o.GetNamespace(), o.GetName(), err)
	}
	return nil
}

// lost says whether a patch failed because the object is gone, is another one, or has another controller: that is for
// events to tell.
func lost(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err)
}

// Matches says whether the selector matches labels; an empty one matches nothing, as a controller must not own everything by
// mistake.
func Matches(s labels.Selector, l map[string]string) bool {
	return !s.Empty() && s.Matches(labels.Set(l))
}

// Suitors are those of the owners, which are of the object's namespace, that may want to adopt it: their selectors match its labels.
func Suitors[T metav1.Object](o metav1.Object, owners []T, selector func(T) *metav1.LabelSelector) (out []cache.ObjectName) {
	for _, owner := range owners {
		if s, err := metav1.LabelSelectorAsSelector(selector(owner)); err == nil && Matches(s, o.GetLabels()) {
			out = append(out, cache.MetaObjectToName(owner))
		}
	}
	return out
}
