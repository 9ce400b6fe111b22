package etcd

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/peapod/peapod/store/storagetest"
)

// TestStorageCorrupt runs the part of the suite that deletes objects which cannot be read.
func TestStorageCorrupt(t *testing.T) {
	tolerate(t, true)
	prefix := storagetesting.NewPrefixTransformer([]byte(testPrefix), false)
	run := map[string]func(context.Context, *testing.T, storage.Interface, func(bool)){
		"DeleteExpected": func(ctx context.Context, t *testing.T, s storage.Interface, fail func(bool)) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, s, fail)
		},
		"DeleteWithConflictAndMissingExpected": func(ctx context.Context, t *testing.T, s storage.Interface, fail func(bool)) {
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, s, fail)
		},
	}
	for name, test := range run {
		t.Run(fmt.Sprintf("%sTransformError", name), func(t *testing.T) {
			b := &storagetest.BrokenTransformer{Transformer: prefix}
			test(context.Background(), t, newTolerant(t, testCodec(), b), b.Fail.Store)
		})
		t.Run(fmt.Sprintf("%sDecodeError", name), func(t *testing.T) {
			b := &storagetest.BrokenCodec{Codec: testCodec()}
			test(context.Background(), t, newTolerant(t, b, prefix), b.Fail.Store)
		})
	}
}

// newTolerant is the storage of Pods as it is made for the API server, without the watch cache.
func newTolerant(t *testing.T, codec runtime.Codec, transformer value.Transformer) storage.Interface {
	t.Helper()
	raw, stop, err := openTest(t, nil).uncached(podConfig(codec, transformer), "/pods/", newPod, newPodList)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return raw
}

// TestProgress runs the suite's test of progress against an etcd that notifies often.
func TestProgress(t *testing.T) {
	etcd := testserver.NewTestConfig(t)
	etcd.WatchProgressNotifyInterval = time.Second
	client := testserver.RunEtcd(t, etcd)
	s, err := Open(t.Context(), Config{Servers: client.Endpoints(), CompactionInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	raw, stop, err := s.uncached(podConfig(testCodec(), nil), "/pods/", newPod, newPodList)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	storagetesting.RunOptionalTestProgressNotify(context.Background(), t, raw, func(ctx context.Context, t *testing.T) int64 {
		r, err := client.Put(ctx, "increaseRV", "ok", clientv3.WithPrevKV())
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.Revision
	})
}
