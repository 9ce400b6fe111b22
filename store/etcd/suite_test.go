package etcd

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/peapod/peapod/store/storagetest"
)

// testPrefix is what the test's transformer puts before stored values.
const testPrefix = "test!"

func testCodec() runtime.Codec {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	return apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)
}

// layer is what a test is run on.
type layer int

const (
	// both runs it twice, as what follows.
	both layer = iota
	// cached is what clients get: the watch cache over etcd.
	cached
	// bare is the storage under it.
	bare
)

// suite is the storage of Pods in an etcd of its own, for one test.
type suite struct {
	storage.Interface
	store       *Store
	cache       *cacher.Cacher // nil where the test is run on the bare storage
	codec       runtime.Codec
	transformer *changing
	lists       *storagetesting.KubernetesRecorder // the requests for lists that reached etcd
}

// recording tells a recorder of the lists that etcd is asked for.
type recording struct {
	clientv3.KV
	lists *storagetesting.KubernetesRecorder
}

func (r recording) record(ctx context.Context, key string, opts []clientv3.OpOption) {
	op := clientv3.OpGet(key, opts...)
	if len(op.RangeBytes()) > 0 && !op.IsCountOnly() {
		// It records, and asks nobody.
		_, _ = r.lists.List(ctx, key, kubernetes.ListOptions{Limit: op.Limit(), Revision: op.Rev()})
	}
}

func (r recording) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r.record(ctx, key, opts)
	return r.KV.Get(ctx, key, opts...)
}

func (r recording) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	r.record(ctx, key, opts)
	return r.KV.GetStream(ctx, key, opts...)
}

// nobody answers nothing.
type nobody struct{ kubernetes.Interface }

func (nobody) List(context.Context, string, kubernetes.ListOptions) (kubernetes.ListResponse, error) {
	return kubernetes.ListResponse{}, nil
}

// changing is a transformer that can be replaced.
type changing struct {
	now atomic.Pointer[value.Transformer]
}

func (c *changing) set(t value.Transformer) { c.now.Store(&t) }

func (c *changing) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	return (*c.now.Load()).TransformFromStorage(ctx, data, at)
}

func (c *changing) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	return (*c.now.Load()).TransformToStorage(ctx, data, at)
}

// openTest opens a store on an etcd that ends with the test.
func openTest(t testing.TB, change func(*Config)) *Store {
	t.Helper()
	cfg := Config{CompactionInterval: -1}
	if change != nil {
		change(&cfg)
	}
	if cfg.Servers == nil {
		cfg.Servers = testserver.RunEtcd(t, nil).Endpoints()
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// podConfig is the storage of the suite's Pods.
func podConfig(codec runtime.Codec, transformer value.Transformer) *storagebackend.ConfigForResource {
	config := storagebackend.NewDefaultConfig("/", codec)
	config.Transformer = transformer
	// Leases are shared by objects that expire at about the same time; the tests wait for expiry.
	config.LeaseManagerConfig.ReuseDurationSeconds = 1
	return config.ForResource(schema.GroupResource{Resource: "pods"})
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

func podAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	p := obj.(*example.Pod)
	return p.Labels, fields.Set{"metadata.name": p.Name, "metadata.namespace": p.Namespace, "spec.nodeName": p.Spec.NodeName,
		"spec.restartPolicy": string(p.Spec.RestartPolicy), "status.phase": string(p.Status.Phase)}, nil
}

func podKey(obj runtime.Object) (string, error)     { return storage.NamespaceKeyFunc("/pods/", obj) }
func clusterKey(obj runtime.Object) (string, error) { return storage.NoNamespaceKeyFunc("/pods/", obj) }

func newSuite(t *testing.T, on layer, codec runtime.Codec, transformer value.Transformer, key func(runtime.Object) (string, error)) (context.Context, *suite) {
	t.Helper()
	s := &suite{store: openTest(t, func(c *Config) { c.Prefix = "/" }), codec: codec, transformer: &changing{}}
	s.transformer.set(transformer)
	s.lists = storagetesting.NewKubernetesRecorder(nobody{})
	s.store.client.KV = recording{s.store.client.KV, s.lists}
	config := podConfig(codec, s.transformer)
	if on == bare {
		// What fails is given by the suite, corrupt or not: nothing stands between.
		raw, stop, err := s.store.storing(config, "/pods/", newPod, newPodList, s.transformer,
			etcd3.WithCorruptObjErrorHandlingDecoder(etcd3.NewDefaultDecoder(codec, storage.APIObjectVersioner{})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		s.Interface = raw
		return context.Background(), s
	}
	var err error
	s.Interface, _, err = s.store.Decorator()(config, "/pods/", key, newPod, newPodList, podAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.cache = s.store.resources[0].cache
	s.awaitWatch(t)
	return context.Background(), s
}

// awaitWatch returns once the cache has heard of a change by its watch.
func (s *suite) awaitWatch(t *testing.T) {
	t.Helper()
	rev := uint64(s.increaseRV(t.Context(), t))
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		if err := s.RequestWatchProgress(ctx); err != nil {
			return false, err
		}
		seen, err := s.cache.LastSyncResourceVersion()
		return seen >= rev, err
	})
	if err != nil {
		t.Fatalf("wait for the watch cache: %v", err)
	}
}

func (s *suite) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	before := *s.transformer.now.Load()
	prefix := *before.(*storagetesting.PrefixTransformer)
	s.transformer.set(modify(&prefix))
	return func() { s.transformer.set(before) }
}

func (s *suite) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	before := *s.transformer.now.Load()
	s.transformer.set(modify(before))
	return func() { s.transformer.set(before) }
}

// checkStored checks that what is in etcd holds no resource version.
func (s *suite) checkStored(ctx context.Context, t *testing.T, key string) {
	r, err := s.store.client.Get(ctx, key)
	if err != nil || len(r.Kvs) == 0 {
		t.Fatalf("expecting non empty result on key: %s, %v", key, err)
	}
	obj, err := runtime.Decode(s.codec, r.Kvs[0].Value[len(testPrefix):])
	if err != nil {
		t.Fatalf("expecting successful decode of object from %v\n%v", err, string(r.Kvs[0].Value))
	}
	if pod := obj.(*example.Pod); pod.ResourceVersion != "" {
		t.Errorf("stored object should have no resource version: %v", pod)
	}
}

// compact is the suite's way to make history go.
func (s *suite) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	rev, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	// The first attempt may only learn how often was compacted before.
	var version int64
	for range 2 {
		var compacted int64
		if version, _, compacted, err = etcd3.Compact(ctx, s.store.client, version, rev); err == nil && compacted == rev {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	// The store learns of it by a watch, which tells nobody else.
	if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return s.store.compactor.CompactRevision() >= rev, nil
	}); err != nil {
		t.Fatalf("wait for the compaction to %d: %v", rev, err)
	}
	if s.cache != nil {
		if err := s.cache.Compact(resourceVersion); err != nil {
			t.Fatal(err)
		}
	}
}

// increaseRV writes a key of no resource.
func (s *suite) increaseRV(ctx context.Context, t *testing.T) int64 {
	r, err := s.store.client.Put(ctx, "increaseRV", "ok")
	if err != nil {
		t.Fatalf("Could not update increaseRV: %v", err)
	}
	return r.Header.Revision
}

// suiteTest is one test of k8s.io/apiserver/pkg/storage/testing.
type suiteTest struct {
	name string
	on   layer
	run  func(context.Context, *testing.T, *suite)
}

// plain is a test that needs nothing but the storage.
func plain(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, *suite) {
	return func(ctx context.Context, t *testing.T, s *suite) { run(ctx, t, s.Interface) }
}

// bitsFlipped is what the suite makes objects fail with that are to be corrupt.
func bitsFlipped() error {
	flipped := &storagetest.BrokenTransformer{Transformer: identity.NewEncryptCheckTransformer()}
	flipped.Fail.Store(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(flipped).TransformFromStorage(context.Background(), nil, nil)
	return err
}

// TestStorage runs the suite of k8s.io/apiserver/pkg/storage/testing against a real etcd: the same list as the tests of
// package store, each test on the watch cache, on the storage under it, or on both, as upstream runs it.
//
// The gate that lets objects be deleted which cannot be read is on by default; the suite wants it off but where it says so.
func TestStorage(t *testing.T) {
	tolerate(t, false)
	for _, test := range slices.Concat(suiteWrites(), suiteReads(), suiteWatches()) {
		if slices.Contains(tolerating, test.name) {
			continue
		}
		test.each(t, func(t *testing.T, on layer) {
			t.Parallel() // most of the time they wait
			test.start(t, on)
		})
	}
}

// TestStorageTolerant is the part of TestStorage that wants the gate on.
func TestStorageTolerant(t *testing.T) {
	tolerate(t, true)
	for _, test := range slices.Concat(suiteWrites(), suiteReads(), suiteWatches()) {
		if slices.Contains(tolerating, test.name) {
			test.each(t, test.start)
		}
	}
}

// each runs the test on its layers.
func (test suiteTest) each(t *testing.T, run func(*testing.T, layer)) {
	layers := []layer{test.on}
	if test.on == both {
		layers = []layer{cached, bare}
	}
	for _, on := range layers {
		name := test.name
		if on == bare {
			name += "WithoutCache"
		}
		t.Run(name, func(t *testing.T) { run(t, on) })
	}
}

func (test suiteTest) start(t *testing.T, on layer) {
	key := podKey
	if test.name == "ClusterScopedWatch" {
		key = clusterKey
	}
	ctx, s := newSuite(t, on, testCodec(), storagetesting.NewPrefixTransformer([]byte(testPrefix), false), key)
	test.run(ctx, t, s)
}

// tolerating are the tests for which objects that cannot be read may be deleted.
var tolerating = []string{"DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", "GetListWithErrorAggregation", "WatchWithUnsafeDelete"}

func tolerate(t *testing.T, on bool) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, on)
}

func suiteWrites() []suiteTest {
	return []suiteTest{
		{"Create", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestCreate(ctx, t, s.Interface, s.checkStored)
		}},
		{"CreateWithTTL", both, plain(storagetesting.RunTestCreateWithTTL)},
		{"CreateWithKeyExist", both, plain(storagetesting.RunTestCreateWithKeyExist)},
		{"Get", both, plain(storagetest.RunTestGet)},
		{"UnconditionalDelete", both, plain(storagetesting.RunTestUnconditionalDelete)},
		{"ConditionalDelete", both, plain(storagetesting.RunTestConditionalDelete)},
		{"DeleteWithSuggestion", both, plain(storagetesting.RunTestDeleteWithSuggestion)},
		{"DeleteWithSuggestionAndConflict", both, plain(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
		{"DeleteWithSuggestionOfDeletedObject", both, plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
		{"ValidateDeletionWithSuggestion", both, plain(storagetesting.RunTestValidateDeletionWithSuggestion)},
		{"ValidateDeletionWithOnlySuggestionValid", both, plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
		{"DeleteWithConflict", both, plain(storagetesting.RunTestDeleteWithConflict)},
		{"PreconditionalDeleteWithSuggestion", both, plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
		{"PreconditionalDeleteWithOnlySuggestionPass", both, plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
		{"DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, s.Interface)
		}},
		{"GuaranteedUpdate", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.checkStored)
		}},
		{"GuaranteedUpdateWithTTL", both, plain(storagetesting.RunTestGuaranteedUpdateWithTTL)},
		{"GuaranteedUpdateChecksStoredData", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, s)
		}},
		{"GuaranteedUpdateWithConflict", both, plain(storagetesting.RunTestGuaranteedUpdateWithConflict)},
		{"GuaranteedUpdateWithSuggestionAndConflict", both, plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
		{"TransformationFailure", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestTransformationFailure(ctx, t, s)
		}},
	}
}

func suiteReads() []suiteTest {
	uncounted := func(*testing.T, uint64, uint64) {}
	return []suiteTest{
		{"List", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestList(ctx, t, s.Interface, s.compact, s.cache != nil, s.lists)
		}},
		{"ConsistentList", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestConsistentList(ctx, t, s.Interface, s.increaseRV, s.cache != nil, true, s.cache != nil)
		}},
		{"GetListNonRecursive", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increaseRV, s.Interface)
		}},
		{"GetListRecursivePrefix", both, plain(storagetesting.RunTestGetListRecursivePrefix)},
		{"GetListWithErrorAggregation", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListWithErrorAggregation(ctx, t, s, bitsFlipped())
		}},
		{"GetListWithoutErrorAggregation", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, s, bitsFlipped())
		}},
		{"ListContinuation", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuation(ctx, t, s.Interface, uncounted)
		}},
		{"ListPaginationRareObject", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, s.Interface, uncounted)
		}},
		{"ListContinuationWithFilter", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s.Interface, uncounted)
		}},
		{"ListInconsistentContinuation", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s.Interface, s.compact)
		}},
		{"ListResourceVersionMatch", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, s)
		}},
		{"ListPaging", both, plain(storagetesting.RunTestListPaging)},
		{"NamespaceScopedList", both, plain(storagetesting.RunTestNamespaceScopedList)},
		{"Stats", both, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestStats(ctx, t, s.Interface, s.codec, s.transformer, s.cache != nil)
		}},
		{"CompactRevision", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestCompactRevision(ctx, t, s.Interface, s.increaseRV, s.compact)
		}},
		{"KeySchema", both, plain(storagetesting.RunTestKeySchema)},
	}
}

// suiteWatches are run on the bare storage only where they must be: etcd may tell of a change without what was before, as it
// should, while it is still setting up the watch. The watch cache lists again where that happens.
func suiteWatches() []suiteTest {
	return []suiteTest{
		{"Watch", cached, plain(storagetesting.RunTestWatch)},
		{"WatchFromZero", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchFromZero(ctx, t, s.Interface, s.compact)
		}},
		{"DeleteTriggerWatch", cached, plain(storagetesting.RunTestDeleteTriggerWatch)},
		{"WatchFromNonZero", cached, plain(storagetesting.RunTestWatchFromNonZero)},
		{"DelayedWatchDelivery", cached, plain(storagetesting.RunTestDelayedWatchDelivery)},
		{"WatchError", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchError(ctx, t, s)
		}},
		{"WatchWithUnsafeDelete", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, s, bitsFlipped())
		}},
		{"WatchContextCancel", bare, plain(storagetesting.RunTestWatchContextCancel)},
		{"WatcherTimeout", cached, plain(storagetesting.RunTestWatcherTimeout)},
		{"WatchDeleteEventObjectHaveLatestRV", cached, plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
		{"WatchInitializationSignal", cached, plain(storagetesting.RunTestWatchInitializationSignal)},
		{"ClusterScopedWatch", cached, plain(storagetesting.RunTestClusterScopedWatch)},
		{"NamespaceScopedWatch", cached, plain(storagetesting.RunTestNamespaceScopedWatch)},
		{"WatchDispatchBookmarkEvents", cached, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s.Interface, s.cache != nil)
		}},
		{"OptionalWatchBookmarksWithCorrectResourceVersion", cached, plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion)},
		{"SendInitialEventsBackwardCompatibility", cached, plain(storagetesting.RunSendInitialEventsBackwardCompatibility)},
		{"WatchSemantics", cached, plain(storagetesting.RunWatchSemantics)},
		{"WatchSemanticInitialEventsExtended", cached, plain(storagetesting.RunWatchSemanticInitialEventsExtended)},
		{"WatchListMatchSingle", cached, plain(storagetesting.RunWatchListMatchSingle)},
		{"WatchErrorIsBlockingFurtherEvents", bare, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, s)
		}},
	}
}
