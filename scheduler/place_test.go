package scheduler_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	kmetrics "k8s.io/component-base/metrics"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/scheduler"
	"github.com/peapod/peapod/scheduler/metrics"
)

// lastEvents is how long events may take after the last binding, until those that are missing count as dropped.
const lastEvents = 10 * time.Second

// BenchmarkPlace has a scheduler begin where all nodes and Pods are there already, on an API server in the same process whose disk is
// memory. ns/op is for one Pod until the last has its node; cpu-us is the processor time of one with its event. Recorders drop
// events when they cannot follow, so that events/pod, which says how many were written, may be less than 1.
func BenchmarkPlace(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			klog.SetLogger(klog.Logger{}) // what the server says of itself is no figure
			s := servertest.Start(b, nil)
			client, err := inprocess.NewClientset(s.Transport.Config(&user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}))
			if err != nil {
				b.Fatal(err)
			}
			fill(b, client, nodes, b.N)
			factory := informers.NewSharedInformerFactory(client, 0)
			bound, told := until(b.N), until(b.N)
			watchPods(b, factory, bound)
			watchEvents(b, factory, told)
			broadcaster := events.NewBroadcaster(scheduler.NewSink(client.EventsV1()))
			registry := kmetrics.NewKubeRegistry()
			sched, err := scheduler.New(scheduler.Config{
				Client: client, Informers: factory, Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.DefaultSchedulerName),
				Metrics: metrics.New(metrics.Registry{MustRegister: registry.MustRegister, CustomMustRegister: registry.CustomMustRegister}, corev1.DefaultSchedulerName)})
			if err != nil {
				b.Fatal(err)
			}
			if err := broadcaster.StartRecordingToSinkWithContext(b.Context()); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			began := scheduler.Spent(b)
			b.ResetTimer()
			var running sync.WaitGroup
			running.Go(func() {
				if err := sched.Run(b.Context()); err != nil {
					b.Error(err)
				}
			})
			factory.Start(b.Context().Done())
			<-bound.all
			b.StopTimer()
			select {
			case <-told.all:
			case <-time.After(lastEvents):
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			b.ReportMetric(1-float64(told.left.Load())/float64(b.N), "events/pod")
			b.ReportMetric(float64((scheduler.Spent(b)-began).Microseconds())/float64(b.N), "cpu-us")
			b.Cleanup(func() { running.Wait(); broadcaster.Shutdown(); factory.Shutdown() })
		})
	}
}

// countdown is closed when as many came as were waited for.
type countdown struct {
	left atomic.Int64
	all  chan struct{}
}

func until(n int) *countdown {
	c := &countdown{all: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) one() {
	if c.left.Add(-1) == 0 {
		close(c.all)
	}
}

// watchPods counts Pods that get a node.
func watchPods(b *testing.B, factory informers.SharedInformerFactory, bound *countdown) {
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, obj any) {
			if old.(*corev1.Pod).Spec.NodeName == "" && obj.(*corev1.Pod).Spec.NodeName != "" {
				bound.one()
			}
		},
	}); err != nil {
		b.Fatal(err)
	}
}

// watchEvents counts events.
func watchEvents(b *testing.B, factory informers.SharedInformerFactory, told *countdown) {
	if _, err := factory.Events().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { told.one() },
	}); err != nil {
		b.Fatal(err)
	}
}

// fill makes nodes and Pods that wait.
func fill(b *testing.B, client kubernetes.Interface, nodes, pods int) {
	b.Helper()
	create := func(n int, one func(i int) error) {
		var making sync.WaitGroup
		for w := range 8 {
			making.Go(func() {
				for i := w; i < n; i += 8 {
					if err := one(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		making.Wait()
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("2000"),
	}
	create(nodes, func(i int) error {
		name := fmt.Sprint("node-", i)
		_, err := client.CoreV1().Nodes().Create(b.Context(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%10)}},
			Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
		}, metav1.CreateOptions{})
		return err
	})
	create(pods, func(i int) error {
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(b.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod-", i), Labels: map[string]string{"app": fmt.Sprint("app-", i%100)}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")}}}}},
		}, metav1.CreateOptions{})
		return err
	})
}
