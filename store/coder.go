package store

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"weak"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"github.com/peapod/peapod/store/mvcc"
)

// coder turns objects into stored bytes and back. It does not change; memos carry the coder that made them, for what an
// object decodes to depends on it.
type coder struct {
	codec     runtime.Codec
	versioner storage.Versioner
	// transformer encrypts; nil for none.
	transformer value.Transformer
	newFunc     func() runtime.Object
	// passing says that nobody in the process holds what decoded objects consist of: they are of a type that is not sent, and each
	// watcher gets a conversion. Such objects are kept until garbage is collected, which is long enough for watchers that keep up.
	passing bool
	// partial says that objects are only their metadata. They are not kept: they would take the place of the whole ones.
	partial bool
	// tolerant makes errors say which objects are corrupt, so that they can be deleted.
	tolerant bool
}

// unencrypted takes what is stored as it is, unless that is encrypted.
var unencrypted = identity.NewEncryptCheckTransformer()

// keyContext binds encrypted data to the key that it is stored under.
type keyContext string

func (c keyContext) AuthenticatedData() []byte { return []byte(c) }

// seal turns an encoded object into what is stored.
func (c *coder) seal(ctx context.Context, key string, data []byte) ([]byte, error) {
	if c.transformer == nil {
		return data, nil
	}
	sealed, err := c.transformer.TransformToStorage(ctx, data, keyContext(key))
	if err != nil {
		return nil, storage.NewInternalError(err)
	}
	return sealed, nil
}

// unseal turns what is stored into an encoded object. stale says that it should be written again.
func (c *coder) unseal(ctx context.Context, v *mvcc.Value) (data []byte, stale bool, err error) {
	if c.transformer != nil {
		data, stale, err = c.transformer.TransformFromStorage(ctx, v.Data, keyContext(v.Key))
	} else {
		data, stale, err = unencrypted.TransformFromStorage(ctx, v.Data, nil)
	}
	if err != nil {
		if c.tolerant {
			err = &corruptError{what: "data from the storage is not transformable", revision: v.Mod, err: err}
		}
		return nil, false, err
	}
	return data, stale, nil
}

// decode decodes data into the object into, which may be any, and returns the object that it became, at revision rev.
func (c *coder) decode(data []byte, into runtime.Object, rev int64) (runtime.Object, error) {
	obj, _, err := c.codec.Decode(data, nil, into)
	if err != nil {
		if c.tolerant {
			err = &corruptError{what: "object not decodable", revision: rev, err: err}
		}
		return nil, err
	}
	if err := c.versioner.UpdateObject(obj, uint64(rev)); err != nil {
		return nil, fmt.Errorf("set the resource version %d: %w", rev, err)
	}
	return obj, nil
}

// memo returns the object that v has already been decoded to by c, nil if it has not. It is shared: read-only.
func (c *coder) memo(v *mvcc.Value) runtime.Object {
	m := v.Memo()
	if m == nil || m.Owner != any(c) {
		return nil
	}
	if p, ok := m.Object.(weak.Pointer[passing]); ok {
		if kept := p.Value(); kept != nil {
			return kept.object
		}
		return nil
	}
	return m.Object.(runtime.Object)
}

// newMemo makes the memo of a value that decodes to obj, which is shared from now on.
func (c *coder) newMemo(obj runtime.Object) *mvcc.Memo {
	if c.passing {
		return &mvcc.Memo{Owner: c, Object: weak.Make(&passing{obj})}
	}
	return &mvcc.Memo{Owner: c, Object: obj}
}

// passing holds an object that a memo points to weakly.
type passing struct{ object runtime.Object }

// isPartial says whether obj is the metadata of an object.
func isPartial(obj runtime.Object) bool {
	_, yes := obj.(*metav1.PartialObjectMetadata)
	return yes
}

// passes says whether objects of obj's type are converted before they are sent, as the internal types of k8s.io/apiextensions-apiserver are:
// they have no encoding of their own.
func passes(obj runtime.Object) bool {
	switch obj.(type) {
	case message, runtime.Unstructured:
		return false
	}
	return true
}

// object decodes v into a shared, read-only object, which is kept with v if keep. The error of unsealing is reported
// apart from that of decoding, for callers report them differently.
func (c *coder) object(ctx context.Context, v *mvcc.Value, keep bool) (obj runtime.Object, unsealErr, decodeErr error) {
	if obj := c.memo(v); obj != nil {
		return obj, nil, nil
	}
	data, _, err := c.unseal(ctx, v)
	if err != nil {
		return nil, err, nil
	}
	if obj, err = c.decode(data, c.newFunc(), v.Mod); err != nil {
		return nil, nil, err
	}
	if keep && !c.partial {
		v.SetMemo(c.newMemo(obj))
	}
	return obj, nil, nil
}

// encode returns the bytes of obj, from which it clears what is not stored.
func (c *coder) encode(obj runtime.Object) ([]byte, error) {
	if err := c.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	return runtime.Encode(c.codec, obj)
}

// loan makes a copy of a shared object that a caller may stamp with a resource version, a type and annotations without
// changing the shared one: what lies deeper is still shared and read-only.
func loan(shared runtime.Object) runtime.Object {
	if u, ok := shared.(*unstructured.Unstructured); ok {
		return &unstructured.Unstructured{Object: loanMap(u.Object)}
	}
	src := reflect.ValueOf(shared).Elem()
	dst := reflect.New(src.Type())
	dst.Elem().Set(src)
	return dst.Interface().(runtime.Object)
}

// loanMap copies the levels of an unstructured object at which metadata is set.
func loanMap(shared map[string]any) map[string]any {
	m := maps.Clone(shared)
	if meta, ok := m["metadata"].(map[string]any); ok {
		m["metadata"] = maps.Clone(meta)
	}
	return m
}

// lend is loan into an element of a list.
func lend(dst reflect.Value, shared runtime.Object) {
	if u, ok := shared.(*unstructured.Unstructured); ok {
		dst.Set(reflect.ValueOf(unstructured.Unstructured{Object: loanMap(u.Object)}))
		return
	}
	dst.Set(reflect.ValueOf(shared).Elem())
}

// assign makes out become obj, which the caller gives away. It returns false where they are of different types.
func assign(out, obj runtime.Object) bool {
	dst, src := reflect.ValueOf(out), reflect.ValueOf(obj)
	if dst.Type() != src.Type() {
		return false
	}
	dst.Elem().Set(src.Elem())
	return true
}

// corruptionTolerated says whether objects that cannot be read may be listed by name and deleted.
func corruptionTolerated() bool {
	return utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
}
