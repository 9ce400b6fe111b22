package store

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/storage"
)

// newCoreStorage makes a storage of core Pods in protobuf on the real file system.
func newCoreStorage(b testing.TB) (*Resource, apiruntime.Codec) {
	b.Helper()
	scheme := apiruntime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	// One type for the served and the internal version, as the API server has it.
	scheme.AddKnownTypes(schema.GroupVersion{Version: apiruntime.APIVersionInternal}, &corev1.Pod{}, &corev1.PodList{})
	proto := protobuf.NewSerializer(scheme, scheme)
	codec := serializer.NewCodecFactory(scheme).CodecForVersions(proto, proto, corev1.SchemeGroupVersion,
		schema.GroupVersion{Version: apiruntime.APIVersionInternal})
	dir, err := os.MkdirTemp(".", "bench-*.data")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	s := openStore(b, Config{Dir: dir, FS: vfs.Default})
	r, err := s.New(ResourceConfig{
		ResourcePrefix: "/pods",
		Codec:          codec,
		New:            func() apiruntime.Object { return &corev1.Pod{} },
		NewList:        func() apiruntime.Object { return &corev1.PodList{} },
	})
	if err != nil {
		b.Fatal(err)
	}
	return r, codec
}

func corePod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", UID: "00000000-0000-0000-0000-000000000000",
			Labels:      map[string]string{"app": "bench", "tier": "one"},
			Annotations: map[string]string{"note": strings.Repeat("x", 200)},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-1",
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.example/image:tag", Command: []string{"/bin/sh", "-c", "sleep inf"},
				Env:          []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}},
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets"}},
			}},
			Volumes: []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", HostIP: "192.0.2.1",
			Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True"}, {Type: "Initialized", Status: "True"}, {Type: "PodScheduled", Status: "True"}},
		},
	}
}

// BenchmarkCreate is durable creates with 16 writers, with nobody watching and with five watchers.
func BenchmarkCreate(b *testing.B) {
	for _, watchers := range []int{0, 5} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			r, _ := newCoreStorage(b)
			for range watchers {
				w, err := r.Watch(b.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					for range w.ResultChan() {
					}
				}()
			}
			var n atomic.Int64
			b.SetParallelism((16 + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					name := fmt.Sprintf("pod-%d", n.Add(1))
					if err := r.Create(context.Background(), "/pods/default/"+name, corePod(name), &corev1.Pod{}, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

// BenchmarkList is a list of 2,000 Pods and its encoding in protobuf, with the objects decoded for watchers and without.
func BenchmarkList(b *testing.B) {
	for _, watched := range []bool{true, false} {
		b.Run(fmt.Sprintf("watched=%v", watched), func(b *testing.B) {
			r, codec := newCoreStorage(b)
			for i := range 2000 {
				name := fmt.Sprintf("pod-%d", i)
				if err := r.Create(b.Context(), "/pods/default/"+name, corePod(name), nil, 0); err != nil {
					b.Fatal(err)
				}
			}
			if watched {
				w, err := r.Watch(b.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
				if err != nil {
					b.Fatal(err)
				}
				for range 2000 {
					<-w.ResultChan()
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				l := &corev1.PodList{}
				if err := r.GetList(b.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, l); err != nil {
					b.Fatal(err)
				}
				if len(l.Items) != 2000 {
					b.Fatal(len(l.Items))
				}
				if _, err := apiruntime.Encode(codec, l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncodedList is the same list as it is passed through.
func BenchmarkEncodedList(b *testing.B) {
	r, _ := newCoreStorage(b)
	for i := range 2000 {
		name := fmt.Sprintf("pod-%d", i)
		if err := r.Create(b.Context(), "/pods/default/"+name, corePod(name), nil, 0); err != nil {
			b.Fatal(err)
		}
	}
	w, err := r.Watch(b.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		b.Fatal(err)
	}
	for range 2000 {
		<-w.ResultChan()
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.GetEncodedList(b.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}); err != nil {
			b.Fatal(err)
		}
	}
}
