package store

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/mvcc"
)

// put is an encoded object on its way into the store.
type put struct {
	write
	// out is where the caller wants the object as stored; nil for nowhere.
	out runtime.Object
}

// prepare makes a put of the encoded object data. What it will decode to is decoded beforehand: into an object for the
// watchers to share if there are any, into out otherwise.
func (r *Resource) prepare(ctx context.Context, key string, data []byte, ttl uint64, expect int64, out runtime.Object) (*put, error) {
	sealed, err := r.coder.seal(ctx, key, data)
	if err != nil {
		return nil, err
	}
	if err := r.checkSize(key, sealed); err != nil {
		return nil, err
	}
	p := &put{write: write{family: r.family.Resource, key: key, expect: expect, data: sealed}, out: out}
	if ttl != 0 {
		p.expires = r.store.cfg.Clock.Now().Add(time.Duration(ttl) * time.Second).UnixMilli()
	}
	switch {
	case r.keep():
		p.owner = r.coder
		p.object, err = r.coder.decode(data, r.coder.newFunc(), 0)
	case out != nil:
		err = r.decodeInto(data, out, 0)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// finish gives the caller what was written.
func (r *Resource) finish(p *put, data []byte) error {
	switch {
	case p.out == nil:
		return nil
	case p.object == nil:
		return r.coder.versioner.UpdateObject(p.out, uint64(p.rev))
	case assign(p.out, p.object.DeepCopyObject()):
		return nil
	default:
		return r.decodeInto(data, p.out, p.rev)
	}
}

// Create implements storage.Interface.
func (r *Resource) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, err := r.key(key, false)
	if err != nil {
		return err
	}
	if rev, err := r.coder.versioner.ObjectResourceVersion(obj); err == nil && rev != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	data, err := r.coder.encode(obj)
	if err != nil {
		return err
	}
	// Most creations that fail do so here, without a turn at the committer.
	if v, _ := r.store.get(key); v != nil {
		return storage.NewKeyExistsError(key, 0)
	}
	p, err := r.prepare(ctx, key, data, ttl, 0, out)
	if err != nil {
		return err
	}
	ok, err := r.store.submit(ctx, &p.write)
	if err != nil {
		return err
	}
	if !ok {
		return storage.NewKeyExistsError(key, 0)
	}
	return r.finish(p, data)
}

// current is the state of a key that a write starts from.
type current struct {
	// obj is the writer's own; nil where the object is there but cannot be read. It is empty where there is none.
	obj runtime.Object
	// rev is the revision of the object, 0 where there is none. data is the encoded object.
	rev  int64
	data []byte
	// stale says that the object should be written again even if it does not change.
	stale bool
}

// current reads key, into an object like typ. It reads memory, so that what the caller remembers of the object is of no
// use: unlike with a remote store the present state costs nothing to look up.
func (r *Resource) current(ctx context.Context, key string, typ reflect.Value, ignoreNotFound, expectCorrupt bool) (*current, error) {
	v, _ := r.store.get(key)
	c := &current{}
	if u, ok := typ.Addr().Interface().(runtime.Unstructured); ok {
		c.obj = u.NewEmptyInstance()
	} else {
		c.obj = reflect.New(typ.Type()).Interface().(runtime.Object)
	}
	if v == nil {
		if !ignoreNotFound {
			return nil, storage.NewKeyNotFoundError(key, 0)
		}
		return c, runtime.SetZeroValue(c.obj)
	}
	c.rev = v.Mod
	err := r.read(ctx, v, c)
	if !expectCorrupt {
		return c, err
	}
	if err == nil {
		return nil, storage.NewInvalidObjError(key, "unsafe deletion is not allowed because the object is decodable from storage")
	}
	c.obj = nil
	return c, nil
}

// read fills in c from v: from the bytes, not from what watchers share, so that a consumer that breaks the rule and changes a shared
// object does not change what is written next.
func (r *Resource) read(ctx context.Context, v *mvcc.Value, c *current) (err error) {
	c.data, c.stale, err = r.coder.unseal(ctx, v)
	if err != nil {
		return storage.NewInternalError(err)
	}
	return r.decodeInto(c.data, c.obj, v.Mod)
}

// Delete implements storage.Interface. The suggested object is not needed, see current.
func (r *Resource) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, opts storage.DeleteOptions) error {
	key, err := r.key(key, false)
	if err != nil {
		return err
	}
	typ, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	expectCorrupt := opts.ExpectTransformOrDecodeError && corruptionTolerated()
	for {
		cur, err := r.current(ctx, key, typ, false, expectCorrupt)
		if err != nil {
			return err
		}
		if preconditions != nil {
			if err := preconditions.Check(key, cur.obj); err != nil {
				return err
			}
		}
		if err := validate(ctx, cur.obj); err != nil {
			return err
		}
		w := &write{family: r.family.Resource, key: key, expect: cur.rev, delete: true}
		ok, err := r.store.submit(ctx, w)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if expectCorrupt {
			return nil
		}
		return r.decodeInto(cur.data, out, w.rev)
	}
}

// GuaranteedUpdate implements storage.Interface. The suggested object is not needed, see current.
func (r *Resource) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object) error {
	key, err := r.key(key, false)
	if err != nil {
		return err
	}
	typ, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	for {
		cur, err := r.current(ctx, key, typ, ignoreNotFound, false)
		if err != nil {
			return err
		}
		if err := preconditions.Check(key, cur.obj); err != nil {
			return err
		}
		obj, ttl, err := tryUpdate(cur.obj, storage.ResponseMeta{ResourceVersion: uint64(cur.rev)})
		if err != nil {
			return err
		}
		done, err := r.replace(ctx, key, cur, obj, ttl, out)
		if done || err != nil {
			return err
		}
	}
}

// replace writes obj in the place of cur, and says whether that worked: it does not where cur is not current any more.
// An object that stays the same is not written.
func (r *Resource) replace(ctx context.Context, key string, cur *current, obj runtime.Object, ttl *uint64, out runtime.Object) (bool, error) {
	data, err := r.coder.encode(obj)
	if err != nil {
		return false, err
	}
	if !cur.stale && cur.rev != 0 && bytes.Equal(data, cur.data) {
		return true, r.decodeInto(cur.data, out, cur.rev)
	}
	var seconds uint64
	if ttl != nil {
		seconds = *ttl
	}
	p, err := r.prepare(ctx, key, data, seconds, cur.rev, out)
	if err != nil {
		return false, err
	}
	if ok, err := r.store.submit(ctx, &p.write); !ok || err != nil {
		return false, err
	}
	return true, r.finish(p, data)
}
