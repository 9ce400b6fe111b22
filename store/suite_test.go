package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
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

// suite is a store of its own for one test of the suite.
type suite struct {
	*Resource
}

type suiteOption func(*Config, *ResourceConfig)

func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "store"
	}
	if cfg.FS == nil {
		cfg.FS = vfs.NewMem()
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

func newSuite(t testing.TB, options ...suiteOption) (context.Context, *suite) {
	t.Helper()
	cfg := Config{}
	rc := ResourceConfig{
		GroupResource:  schema.GroupResource{Resource: "pods"},
		ResourcePrefix: "/pods/",
		Codec:          testCodec(),
		Transformer:    storagetesting.NewPrefixTransformer([]byte(testPrefix), false),
		New:            func() runtime.Object { return &example.Pod{} },
		NewList:        func() runtime.Object { return &example.PodList{} },
	}
	for _, o := range options {
		o(&cfg, &rc)
	}
	r, err := openStore(t, cfg).New(rc)
	if err != nil {
		t.Fatal(err)
	}
	r.coder.tolerant = false
	return context.Background(), &suite{r}
}

// withTransformer gives the storage another transformer, as if it had been made anew.
func (s *suite) withTransformer(t value.Transformer) (restore func()) {
	before := s.coder
	after := *before
	after.transformer = t
	s.coder = &after
	return func() { s.coder = before }
}

func (s *suite) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	transformer := *s.coder.transformer.(*storagetesting.PrefixTransformer)
	return s.withTransformer(modify(&transformer))
}

func (s *suite) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return s.withTransformer(modify(s.coder.transformer))
}

// checkStored checks that what is in the store holds no resource version.
func (s *suite) checkStored(ctx context.Context, t *testing.T, key string) {
	v, _ := s.store.get(key)
	if v == nil {
		t.Fatalf("expecting non empty result on key: %s", key)
	}
	obj, err := runtime.Decode(s.coder.codec, v.Data[len(testPrefix):])
	if err != nil {
		t.Fatalf("expecting successful decode of object from %v\n%v", err, string(v.Data))
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
	if err := s.store.Compact(rev); err != nil {
		t.Fatal(err)
	}
}

// increaseRV writes a key of no resource.
func (s *suite) increaseRV(ctx context.Context, t *testing.T) int64 {
	v, _ := s.store.get("increaseRV")
	w := &write{key: "increaseRV", data: []byte("ok")}
	if v != nil {
		w.expect = v.Mod
	}
	if ok, err := s.store.submit(ctx, w); !ok || err != nil {
		t.Fatalf("Could not update increaseRV: %v", err)
	}
	return w.rev
}

// suiteTest is one test of k8s.io/apiserver/pkg/storage/testing.
type suiteTest struct {
	name    string
	run     func(context.Context, *testing.T, *suite)
	options []suiteOption
}

// plain is a test that needs nothing but the storage.
func plain(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, *suite) {
	return func(ctx context.Context, t *testing.T, s *suite) { run(ctx, t, s) }
}

// gate runs a test with the deletion of objects that cannot be read allowed or not.
func gate(on bool, run func(context.Context, *testing.T, *suite)) func(context.Context, *testing.T, *suite) {
	return func(ctx context.Context, t *testing.T, s *suite) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, on)
		run(ctx, t, s)
	}
}

// bitsFlipped is what the suite makes objects fail with that are to be corrupt.
func bitsFlipped() error {
	return &corruptError{what: "data from the storage is not transformable", err: errors.New("bits flipped")}
}

// TestStorage runs the suite of k8s.io/apiserver/pkg/storage/testing: every RunTest and Run function that it has, here and
// in TestStorageCorrupt, except the benchmarks (RunBenchmarkWriteThroughput, RunBenchmarkStoreList, RunBenchmarkStoreStats), for
// which bench_test.go has ours.
//
// Two things are given to it in another form. The functions that validate how many requests a list makes to etcd have
// nothing to count, since there is no request behind a list. And where storage and watch cache differ the suite is run
// as for storage: lists at resource version 0 observe their limit in List and ListInconsistentContinuation, and
// ConsistentList expects reads at resource version 0 to be the latest. TestListLimitAtZero checks the other way of the
// first, which is what clients get; bookmarks are tested as for a watch cache.
func TestStorage(t *testing.T) {
	for _, test := range slices.Concat(suiteWrites(), suiteReads(), suiteWatches()) {
		t.Run(test.name, func(t *testing.T) {
			ctx, s := newSuite(t, test.options...)
			test.run(ctx, t, s)
		})
	}
}

func suiteWrites() []suiteTest {
	return []suiteTest{
		{name: "Create", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestCreate(ctx, t, s, s.checkStored)
		}},
		{name: "CreateWithTTL", run: plain(storagetesting.RunTestCreateWithTTL)},
		{name: "CreateWithKeyExist", run: plain(storagetesting.RunTestCreateWithKeyExist)},
		{name: "Get", run: plain(storagetest.RunTestGet)},
		{name: "UnconditionalDelete", run: plain(storagetesting.RunTestUnconditionalDelete)},
		{name: "ConditionalDelete", run: plain(storagetesting.RunTestConditionalDelete)},
		{name: "DeleteWithSuggestion", run: plain(storagetesting.RunTestDeleteWithSuggestion)},
		{name: "DeleteWithSuggestionAndConflict", run: plain(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
		{name: "DeleteWithConflict", run: plain(storagetesting.RunTestDeleteWithConflict)},
		{name: "DeleteWithSuggestionOfDeletedObject", run: plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
		{name: "ValidateDeletionWithSuggestion", run: plain(storagetesting.RunTestValidateDeletionWithSuggestion)},
		{name: "ValidateDeletionWithOnlySuggestionValid", run: plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
		{name: "PreconditionalDeleteWithSuggestion", run: plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
		{name: "PreconditionalDeleteWithOnlySuggestionPass", run: plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
		{name: "DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", run: gate(true, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, s)
		})},
		{name: "GuaranteedUpdate", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.checkStored)
		}},
		{name: "GuaranteedUpdateWithTTL", run: plain(storagetesting.RunTestGuaranteedUpdateWithTTL)},
		{name: "GuaranteedUpdateChecksStoredData", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, s)
		}},
		{name: "GuaranteedUpdateWithConflict", run: plain(storagetesting.RunTestGuaranteedUpdateWithConflict)},
		{name: "GuaranteedUpdateWithSuggestionAndConflict", run: plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
		{name: "TransformationFailure", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestTransformationFailure(ctx, t, s)
		}},
	}
}

func suiteReads() []suiteTest {
	uncounted := func(*testing.T, uint64, uint64) {}
	return []suiteTest{
		{name: "List", run: func(ctx context.Context, t *testing.T, s *suite) {
			s.limitAtAnyRevision = true
			storagetesting.RunTestList(ctx, t, s, func(ctx context.Context, t *testing.T, rv string) {
				s.compact(ctx, t, rv)
				s.increaseRV(ctx, t)
			}, false, nil)
		}},
		{name: "ConsistentList", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestConsistentList(ctx, t, s, s.increaseRV, false, true, false)
		}},
		{name: "GetListNonRecursive", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increaseRV, s)
		}},
		{name: "GetListRecursivePrefix", run: plain(storagetesting.RunTestGetListRecursivePrefix)},
		{name: "GetListWithErrorAggregation", run: gate(true, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListWithErrorAggregation(ctx, t, s, bitsFlipped())
		})},
		{name: "GetListWithoutErrorAggregation", run: gate(false, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, s, bitsFlipped())
		})},
		{name: "ListContinuation", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuation(ctx, t, s, uncounted)
		}},
		{name: "ListPaginationRareObject", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, s, uncounted)
		}},
		{name: "ListContinuationWithFilter", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s, uncounted)
		}},
		{name: "ListInconsistentContinuation", run: func(ctx context.Context, t *testing.T, s *suite) {
			s.limitAtAnyRevision = true
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s, s.compact)
		}},
		{name: "ListResourceVersionMatch", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, s)
		}},
		{name: "ListPaging", run: plain(storagetesting.RunTestListPaging)},
		{name: "NamespaceScopedList", run: plain(storagetesting.RunTestNamespaceScopedList)},
		{name: "Stats", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestStats(ctx, t, s, s.coder.codec, s.coder.transformer, false)
		}},
		{name: "StatsWithSizes", run: func(ctx context.Context, t *testing.T, s *suite) {
			if err := s.EnableResourceSizeEstimation(func(context.Context) ([]string, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
			storagetesting.RunTestStats(ctx, t, s, s.coder.codec, s.coder.transformer, true)
		}},
		{name: "CompactRevision", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestCompactRevision(ctx, t, s, s.increaseRV, s.compact)
		}},
		{name: "KeySchema", run: plain(storagetesting.RunTestKeySchema)},
	}
}

func suiteWatches() []suiteTest {
	bookmarks := func(c *Config, _ *ResourceConfig) { c.BookmarkInterval = 100 * time.Millisecond }
	return []suiteTest{
		{name: "Watch", run: plain(storagetesting.RunTestWatch)},
		{name: "WatchFromZero", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchFromZero(ctx, t, s, s.compact)
		}},
		{name: "DeleteTriggerWatch", run: plain(storagetesting.RunTestDeleteTriggerWatch)},
		{name: "WatchFromNonZero", run: plain(storagetesting.RunTestWatchFromNonZero)},
		{name: "DelayedWatchDelivery", run: plain(storagetesting.RunTestDelayedWatchDelivery)},
		{name: "WatchError", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchError(ctx, t, s)
		}},
		{name: "WatchWithUnsafeDelete", run: gate(true, func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, s, bitsFlipped())
		})},
		{name: "WatchContextCancel", run: plain(storagetesting.RunTestWatchContextCancel)},
		{name: "WatcherTimeout", run: plain(storagetesting.RunTestWatcherTimeout)},
		{name: "WatchDeleteEventObjectHaveLatestRV", run: plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
		{name: "WatchInitializationSignal", run: plain(storagetesting.RunTestWatchInitializationSignal)},
		{name: "ProgressNotify", options: []suiteOption{bookmarks}, run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunOptionalTestProgressNotify(ctx, t, s, s.increaseRV)
		}},
		{name: "ClusterScopedWatch", run: plain(storagetesting.RunTestClusterScopedWatch)},
		{name: "NamespaceScopedWatch", run: plain(storagetesting.RunTestNamespaceScopedWatch)},
		{name: "WatchDispatchBookmarkEvents", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, true)
		}},
		{name: "OptionalWatchBookmarksWithCorrectResourceVersion", run: plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion)},
		{name: "SendInitialEventsBackwardCompatibility", run: plain(storagetesting.RunSendInitialEventsBackwardCompatibility)},
		{name: "WatchSemantics", run: plain(storagetesting.RunWatchSemantics)},
		{name: "WatchSemanticInitialEventsExtended", run: plain(storagetesting.RunWatchSemanticInitialEventsExtended)},
		{name: "WatchListMatchSingle", run: plain(storagetesting.RunWatchListMatchSingle)},
		{name: "WatchErrorIsBlockingFurtherEvents", run: func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, s)
		}},
	}
}

// TestStorageCorrupt runs the part of the suite that deletes objects which cannot be read.
func TestStorageCorrupt(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
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
			b := &storagetest.BrokenTransformer{Transformer: storagetesting.NewPrefixTransformer([]byte(testPrefix), false)}
			ctx, s := newSuite(t, func(_ *Config, rc *ResourceConfig) { rc.Transformer = b })
			test(ctx, t, s, b.Fail.Store)
		})
		t.Run(fmt.Sprintf("%sDecodeError", name), func(t *testing.T) {
			b := &storagetest.BrokenCodec{Codec: testCodec()}
			ctx, s := newSuite(t, func(_ *Config, rc *ResourceConfig) { rc.Codec = b })
			test(ctx, t, s, b.Fail.Store)
		})
	}
}
