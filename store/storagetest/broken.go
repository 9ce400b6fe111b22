package storagetest

import (
	"context"
	"errors"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
)

var errBroken = errors.New("synthetic error")

// BrokenTransformer fails to read what is stored while Fail is true.
type BrokenTransformer struct {
	value.Transformer
	Fail atomic.Bool
}

// TransformFromStorage implements value.Transformer.
func (b *BrokenTransformer) TransformFromStorage(ctx context.Context, data []byte, dc value.Context) ([]byte, bool, error) {
	if b.Fail.Load() {
		return nil, false, errBroken
	}
	return b.Transformer.TransformFromStorage(ctx, data, dc)
}

// BrokenCodec fails to decode while Fail is true.
type BrokenCodec struct {
	runtime.Codec
	Fail atomic.Bool
}

// Decode implements runtime.Codec.
func (b *BrokenCodec) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if b.Fail.Load() {
		return nil, nil, errBroken
	}
	return b.Codec.Decode(data, gvk, into)
}
