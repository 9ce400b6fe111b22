package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/queue"
)

// BenchmarkDecide places 10,000 Pods on clusters of several sizes, without the API: queue, decision and the change of
// state for each. ns/op is for one Pod, as is cpu-us, the processor time. A service's Pods are spread by default.
func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		for _, kind := range []string{"plain", "selector", "service", "spread", "anti-affinity"} {
			b.Run(fmt.Sprintf("%s/nodes=%d", kind, nodes), func(b *testing.B) {
				const pods = 10000
				var cpu time.Duration
				for i := 0; i < b.N; i += pods {
					b.StopTimer()
					c, q, decide := benchCluster(nodes), queue.New(plugins.All()), cycle.New(plugins.All())
					batch := make([]*corev1.Pod, min(pods, b.N-i))
					for j := range batch {
						batch[j] = benchPod(kind, i+j)
					}
					if kind == "service" {
						for j := range 100 {
							app := fmt.Sprint("app-", j)
							c.View().Groups.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: "default"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app}}})
						}
					}
					b.StartTimer()
					began := Spent(b)
					now := time.Now()
					for _, p := range batch {
						q.Put(framework.NewPod(p), framework.PodAdd, now)
					}
					for p := q.Pop(now); p != nil; p = q.Pop(now) {
						d := decide.Decide(p, c.View())
						if d.Node == nil {
							if kind != "anti-affinity" {
								b.Fatal(d.Short)
							}
							q.Delete(p.UID)
							continue
						}
						c.SetPod(p, d.Node.Node.Name)
						q.Delete(p.UID)
					}
					cpu += Spent(b) - began
				}
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			})
		}
	}
}

// Spent is the processor time of this process so far.
func Spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchCluster(nodes int) *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	for i := range nodes {
		name := fmt.Sprint("node-", i)
		n := node(name, map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%10), corev1.LabelOSStable: string(corev1.Linux)})
		n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("32")
		n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse("256Gi")
		c.SetNode(n)
	}
	return c
}

func benchPod(kind string, i int) *corev1.Pod {
	p := pod(fmt.Sprint("pod-", i), "100m")
	p.UID = types.UID(fmt.Sprint(i))
	p.Labels = map[string]string{"app": fmt.Sprint("app-", i%100)}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}
	switch kind {
	case "selector":
		p.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: string(corev1.Linux)}
	case "spread":
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: selector}}
	case "anti-affinity":
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: selector}}}}
	}
	return p
}
