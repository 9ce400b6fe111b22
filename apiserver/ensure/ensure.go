// Package ensure makes the objects that every cluster has, and brings those that are there to what they should be. What that is,
// where a user has changed one, is the caller's to say.
package ensure

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	// writers is how many writes are under way at once: they share the store's group commit.
	writers = 16
	// attempts is how often the whole is tried where another writer is faster.
	attempts = 5
)

// Pointer constrains *T to be an API object.
type Pointer[T any] interface {
	*T
	metav1.Object
}

// Writer is the part of a typed client that is needed here.
type Writer[T any] interface {
	Create(ctx context.Context, obj *T, opts metav1.CreateOptions) (*T, error)
	Update(ctx context.Context, obj *T, opts metav1.UpdateOptions) (*T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// Outcome is what is to be done with an object that is there.
type Outcome int

const (
	// Fine is as it should be.
	Fine Outcome = iota
	// Changed is to be written as the merge has left it.
	Changed
	// Replaced is to be deleted and made anew, as what is wrong with it cannot be changed.
	Replaced
)

// Objects are the objects of one kind, in one namespace if the kind has such.
type Objects[T any, P Pointer[T]] struct {
	Client     Writer[T]
	Want, Have []T
	// Merge completes an object that is there.
	Merge func(have, want P) Outcome
	// Stale says which of those that nobody wants any more are to be deleted; nil: none.
	Stale func(have P) bool
	// Manager is who owns the fields that are written; empty: the name that the client gives itself.
	Manager string
}

// Work returns the writes that turn what there is into what there should be, for Run.
func (o Objects[T, P]) Work(ctx context.Context) []func() error {
	byName := make(map[string]P, len(o.Have))
	for i := range o.Have {
		byName[P(&o.Have[i]).GetName()] = &o.Have[i]
	}
	log := klog.FromContext(ctx)
	var work []func() error
	for i := range o.Want {
		wanted, name := P(&o.Want[i]), P(&o.Want[i]).GetName()
		create := func() error {
			_, err := o.Client.Create(ctx, wanted, metav1.CreateOptions{FieldManager: o.Manager})
			return err
		}
		existing, found := byName[name]
		if !found {
			work = append(work, create)
			continue
		}
		delete(byName, name)
		switch o.Merge(existing, wanted) {
		case Changed:
			log.Info("Restoring default object", "type", fmt.Sprintf("%T", existing), "name", name)
			work = append(work, func() error {
				_, err := o.Client.Update(ctx, existing, metav1.UpdateOptions{FieldManager: o.Manager})
				return err
			})
		case Replaced:
			log.Info("Replacing default object by another", "type", fmt.Sprintf("%T", existing), "name", name)
			work = append(work, func() error {
				if err := o.remove(ctx, existing); err != nil {
					return err
				}
				return create()
			})
		}
	}
	for name, unwanted := range byName {
		if o.Stale != nil && o.Stale(unwanted) {
			log.Info("Deleting object that is no longer a default", "type", fmt.Sprintf("%T", unwanted), "name", name)
			work = append(work, func() error { return o.remove(ctx, unwanted) })
		}
	}
	return work
}

// remove deletes the object, and no other of its name.
func (o Objects[T, P]) remove(ctx context.Context, obj P) error {
	uid := obj.GetUID()
	err := o.Client.Delete(ctx, obj.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Run does all the work, in no order, and returns the errors; one that is no lost race comes before those that are.
func Run(work []func() error) error {
	queue := make(chan func() error)
	var (
		wg          sync.WaitGroup
		mu          sync.Mutex
		races, errs []error
	)
	for range min(writers, len(work)) {
		wg.Go(func() {
			for f := range queue {
				if err := f(); err != nil {
					mu.Lock()
					if lostRace(err) {
						races = append(races, err)
					} else {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, f := range work {
		queue <- f
	}
	close(queue)
	wg.Wait()
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if len(races) > 0 {
		return races[0]
	}
	return nil
}

// Retry calls once, which reads what there is and runs the work, until no other writer was faster. So it may run at any time and on
// several servers at once.
func Retry(once func() error) (err error) {
	for range attempts {
		if err = once(); err == nil || !lostRace(err) {
			break
		}
	}
	return err
}

func lostRace(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
