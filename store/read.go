package store

import (
	"context"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"github.com/peapod/peapod/store/mvcc"
)

// Get implements storage.Interface. out is the caller's own, nothing in it is shared.
func (r *Resource) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := r.key(key, false)
	if err != nil {
		return err
	}
	v, rev := r.store.get(key)
	if err := r.checkMinimum(opts.ResourceVersion, rev); err != nil {
		return err
	}
	if v == nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	if obj := r.coder.memo(v); obj != nil && reflect.TypeOf(obj) == reflect.TypeOf(out) {
		assign(out, obj.DeepCopyObject())
		return nil
	}
	data, _, err := r.coder.unseal(ctx, v)
	if err != nil {
		return r.readError(key, storage.NewInternalError(err))
	}
	if err := r.decodeInto(data, out, v.Mod); err != nil {
		return r.readError(key, err)
	}
	return nil
}

// readError names the object where its corruption can be dealt with.
func (r *Resource) readError(key string, err error) error {
	if isCorrupt(err) {
		return storage.NewCorruptObjError(key, err)
	}
	return err
}

// decodeInto decodes data into out itself.
func (r *Resource) decodeInto(data []byte, out runtime.Object, rev int64) error {
	obj, err := r.coder.decode(data, out, rev)
	if err != nil {
		return err
	}
	if obj != out && !assign(out, obj) {
		return fmt.Errorf("decode into %T: the stored object is a %T", out, obj)
	}
	return nil
}

// lister gathers one page of a list.
type lister struct {
	*Resource
	ctx  context.Context
	pred storage.SelectionPredicate
	// limit is the number of objects of the page, 0 for all. items is the list's slice.
	limit int64
	items reflect.Value
	// fresh makes an empty item of the list. Where that is what the resource's objects are, decoded objects are shared.
	fresh  func() runtime.Object
	shared bool
	keep   bool

	found []runtime.Object
	// encoded takes what is found instead, if it is not nil.
	encoded *encodedItems
	errs    listErrors
	last    string
	more    bool
	seen    int
	cancel  error
}

// GetList implements storage.Interface. What the items hold beyond their first level is shared and read-only.
func (r *Resource) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	itemsPtr, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	items, err := conversion.EnforcePtr(itemsPtr)
	if err != nil || items.Kind() != reflect.Slice {
		return fmt.Errorf("need ptr to slice: %v", err)
	}
	l := r.lister(ctx, opts)
	l.items = items
	l.setFresh(list)
	return l.list(key, opts, list)
}

// lister returns a lister whose items the caller sets.
func (r *Resource) lister(ctx context.Context, opts storage.ListOptions) *lister {
	l := &lister{Resource: r, ctx: ctx, pred: opts.Predicate, limit: r.listLimit(opts), keep: r.keep()}
	l.errs.tolerant = corruptionTolerated()
	return l
}

// list gathers the page of the list of key, and sets the metadata of list.
func (l *lister) list(key string, opts storage.ListOptions, list runtime.Object) error {
	prefix, err := l.key(key, opts.Recursive)
	if err != nil {
		return err
	}
	at, continueKey, err := storage.ValidateListOptions(prefix, l.coder.versioner, opts)
	if err != nil {
		return err
	}
	view, err := l.listView(opts, at)
	if err != nil {
		return l.listError(err, at, continueKey, prefix)
	}
	l.run(view, continueKey, prefix, opts.Recursive)
	l.fill()
	if l.cancel != nil {
		return l.cancel
	}
	if err := l.errs.err(l.groupResource); err != nil {
		return err
	}
	var count int64
	if l.more && opts.Predicate.Empty() {
		count = view.Count(max(continueKey, prefix), prefix)
	}
	token, remaining, err := storage.PrepareContinueToken(l.last, prefix, view.Rev(), count, l.more, opts)
	if err != nil {
		return err
	}
	if err := l.coder.versioner.UpdateList(list, uint64(view.Rev()), token, remaining); err != nil {
		return err
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch) {
		opts.Predicate.SetShardInfoOnList(list)
	}
	return nil
}

// listView returns what a list shows: revision at, or where that is 0 the present, which must be new enough.
func (r *Resource) listView(opts storage.ListOptions, at int64) (*mvcc.View, error) {
	if at > 0 {
		return r.store.at(r.family, at)
	}
	view := r.store.present()
	// A continued list is at the latest revision if at none; its resource version means nothing.
	if opts.Recursive && len(opts.Predicate.Continue) > 0 {
		return view, nil
	}
	return view, r.checkMinimum(opts.ResourceVersion, view.Rev())
}

// listLimit returns the limit that a list observes. A list that begins at resource version 0 is not paged: a watch cache
// does not either, and clients count on getting all of it in one go.
func (r *Resource) listLimit(opts storage.ListOptions) int64 {
	if opts.ResourceVersion == "0" && opts.Predicate.Continue == "" && !r.limitAtAnyRevision {
		return 0
	}
	return max(opts.Predicate.Limit, 0)
}

// setFresh finds out what the items of list are.
func (l *lister) setFresh(list runtime.Object) {
	elem := l.items.Type().Elem()
	if u, ok := list.(*unstructured.UnstructuredList); ok && u.GetAPIVersion() != "" {
		version := u.GetAPIVersion()
		l.fresh = func() runtime.Object {
			return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version}}
		}
	} else {
		l.fresh = func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
	}
	l.shared = reflect.TypeOf(l.coder.newFunc()) == reflect.PointerTo(elem)
}

func (l *lister) run(view *mvcc.View, continueKey, prefix string, recursive bool) {
	if recursive {
		view.Ascend(continueKey, prefix, l.add)
	} else if v := view.Get(prefix); v != nil {
		l.add(v)
	}
}

// checkEvery is after how many objects a list looks whether its caller has gone.
const checkEvery = 64

// add puts v on the page if it matches, and says whether to go on.
func (l *lister) add(v *mvcc.Value) bool {
	if l.limit > 0 && l.count() >= l.limit {
		l.more = true
		return false
	}
	if l.seen++; l.seen%checkEvery == 0 && l.ctx.Err() != nil {
		l.cancel = storage.NewTimeoutError(v.Key, "request did not complete within requested timeout")
		return false
	}
	l.last = v.Key
	if l.encoded != nil && l.pred.Empty() && l.encoded.addKnown(l.coder, v) {
		return !l.encoded.failed
	}
	obj, err := l.object(v)
	if err != nil {
		return !l.errs.add(v.Key, err)
	}
	if matched, err := l.pred.Matches(obj); err != nil || !matched {
		return true
	}
	if l.encoded != nil {
		l.encoded.add(l.coder, v, obj)
		return !l.encoded.failed
	}
	l.found = append(l.found, obj)
	return true
}

// count is how many objects are on the page.
func (l *lister) count() int64 {
	if l.encoded != nil {
		return l.encoded.count
	}
	return int64(len(l.found))
}

func (l *lister) object(v *mvcc.Value) (runtime.Object, error) {
	unsealError := func(err error) error {
		return storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", v.Key, err))
	}
	if l.shared {
		obj, unsealErr, decodeErr := l.coder.object(l.ctx, v, l.keep)
		if unsealErr != nil {
			return nil, unsealError(unsealErr)
		}
		return obj, decodeErr
	}
	data, _, err := l.coder.unseal(l.ctx, v)
	if err != nil {
		return nil, unsealError(err)
	}
	return l.coder.decode(data, l.fresh(), v.Mod)
}

// fill puts what was found into the list, which is never nil then.
func (l *lister) fill() {
	if l.encoded != nil {
		return
	}
	n := len(l.found)
	l.items.Set(reflect.MakeSlice(l.items.Type(), n, n))
	for i, obj := range l.found {
		lend(l.items.Index(i), obj)
	}
}
