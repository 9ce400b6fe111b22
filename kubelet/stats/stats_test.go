package stats

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/pod"
)

// engine is a runtime that has statistics alone: of one Pod with one container.
type engine struct {
	internalapi.RuntimeService
	old   bool // knows no statistics of Pods
	err   error
	cpu   uint64
	at    time.Time
	calls int
}

func labels() map[string]string {
	return map[string]string{criconfig.LabelPodUID: "u1", criconfig.LabelPodName: "p", criconfig.LabelPodNamespace: "ns", criconfig.LabelContainerName: "c"}
}

func n(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func (e *engine) container() *runtimeapi.ContainerStats {
	return &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: "cid", Labels: labels()},
		Cpu:           &runtimeapi.CpuUsage{Timestamp: e.at.UnixNano(), UsageCoreNanoSeconds: n(e.cpu)},
		Memory:        &runtimeapi.MemoryUsage{Timestamp: e.at.UnixNano(), WorkingSetBytes: n(1000), RssBytes: n(500)},
		Swap:          &runtimeapi.SwapUsage{Timestamp: e.at.UnixNano(), SwapUsageBytes: n(7), SwapAvailableBytes: n(3)},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: e.at.UnixNano(), UsedBytes: n(4096), InodesUsed: n(2)},
	}
}

func (e *engine) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return []*runtimeapi.ContainerStats{e.container()}, e.err
}

func (e *engine) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	e.calls++
	if e.old {
		return nil, status.Error(codes.Unimplemented, "unknown method")
	}
	c := e.container()
	stranger := &runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Labels: map[string]string{criconfig.LabelPodUID: "u9"}}}
	return []*runtimeapi.PodSandboxStats{stranger, {
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "sid", Labels: labels()},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: c.Cpu, Memory: c.Memory, Containers: []*runtimeapi.ContainerStats{c}, Process: &runtimeapi.ProcessUsage{ProcessCount: n(4)},
			Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: n(11)}},
		},
	}}, e.err
}

func (e *engine) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return []*runtimeapi.PodSandbox{{Id: "sid", CreatedAt: 1e18}}, nil
}

func (e *engine) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return []*runtimeapi.Container{{Id: "cid", CreatedAt: 2e18}}, nil
}

func (e pictures) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: e.dir}, UsedBytes: n(99), InodesUsed: n(9),
	}}}, nil
}

// pictures is the image service beside the engine.
type pictures struct {
	internalapi.ImageManagerService
	dir string
}

type onePod struct {
	pod.Lookup
	p *v1.Pod
}

func (l onePod) PodByUID(uid types.UID) (*v1.Pod, bool) { return l.p, uid == l.p.UID }

func (l onePod) Pods() []*v1.Pod { return []*v1.Pod{l.p} }

type stage struct {
	*Provider
	engine *engine
	clock  *clocktesting.FakeClock
	dir    string
	pod    *v1.Pod
}

func newStage(t *testing.T) *stage {
	t.Helper()
	dir := t.TempDir()
	s := &stage{dir: dir, clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), engine: &engine{cpu: 1e9, at: time.Unix(1e9, 0)}}
	s.pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"}, Spec: v1.PodSpec{Volumes: []v1.Volume{
		{Name: "scratch", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "later", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
	}}}
	s.pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", Image: "registry.example/c:1", ContainerID: "test://cid"}}
	s.write(t, "pods/u1/volumes/kubernetes.io~empty-dir/scratch/file", 8192)
	s.write(t, "logs/ns_p_u1/c/0.log", 4096)
	var err error
	s.Provider, err = New(Config{
		NodeName: "n1", Pods: func() pod.Lookup { return onePod{p: s.pod} }, Runtime: s.engine, Images: pictures{dir: dir},
		RootDir: dir, LogDir: filepath.Join(dir, "logs"), Clock: s.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) write(t *testing.T, name string, size int) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSummary(t *testing.T) {
	s := newStage(t)
	sum, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := &sum.Node
	if node.NodeName != "n1" || *node.CPU.UsageCoreNanoSeconds == 0 || *node.Memory.WorkingSetBytes == 0 || *node.Memory.AvailableBytes == 0 ||
		*node.Fs.CapacityBytes == 0 || *node.Runtime.ImageFs.UsedBytes != 99 || *node.Rlimit.MaxPID == 0 || *node.Rlimit.NumOfRunningProcesses == 0 ||
		node.StartTime.IsZero() || len(node.SystemContainers) != 1 || *node.SystemContainers[0].Memory.RSSBytes == 0 {
		t.Errorf("node %+v", node)
	}
	if len(sum.Pods) != 1 {
		t.Fatalf("%d pods: a stranger's are none of ours", len(sum.Pods))
	}
	p := &sum.Pods[0]
	c := &p.Containers[0]
	if p.PodRef != (statsapi.PodReference{Name: "p", Namespace: "ns", UID: "u1"}) || p.StartTime.UnixNano() != 1e18 || c.StartTime.UnixNano() != 2e18 ||
		c.Name != "c" || *c.CPU.UsageCoreNanoSeconds != 1e9 || *c.Memory.WorkingSetBytes != 1000 || *p.Network.RxBytes != 11 || *p.ProcessStats.ProcessCount != 4 {
		t.Errorf("pod %+v", p)
	}
	if *c.Rootfs.UsedBytes != 4096 || *c.Logs.UsedBytes < 4096 || *c.Logs.InodesUsed != 2 {
		t.Errorf("rootfs %d, logs %d bytes, %d inodes", *c.Rootfs.UsedBytes, *c.Logs.UsedBytes, *c.Logs.InodesUsed)
	}
	if len(p.VolumeStats) != 1 || p.VolumeStats[0].Name != "scratch" || *p.VolumeStats[0].UsedBytes < 8192 {
		t.Errorf("volumes %+v", p.VolumeStats)
	}
	if want := *c.Rootfs.UsedBytes + *c.Logs.UsedBytes + *p.VolumeStats[0].UsedBytes; *p.EphemeralStorage.UsedBytes != want {
		t.Errorf("ephemeral storage %d, want the sum %d", *p.EphemeralStorage.UsedBytes, want)
	}
}

func TestShared(t *testing.T) {
	s := newStage(t)
	ask := func() *statsapi.Summary {
		t.Helper()
		sum, err := s.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first := ask()
	if first.Pods[0].Containers[0].CPU.UsageNanoCores != nil {
		t.Error("a speed is told from one look")
	}
	s.clock.Step(900 * time.Millisecond)
	if ask() != first || s.engine.calls != 1 {
		t.Error("the answer is not shared")
	}
	s.clock.Step(1100 * time.Millisecond)
	s.engine.cpu, s.engine.at = 2e9, s.engine.at.Add(2*time.Second)
	second := ask()
	if v := second.Pods[0].Containers[0].CPU.UsageNanoCores; v == nil || *v != 5e8 {
		t.Errorf("1 s of CPU in 2 s is half a core, not %v", v)
	}
	if second.Pods[0].Containers[0].Rootfs != nil || second.Node.Fs != nil {
		t.Error("usage alone tells of disks")
	}
	s.engine.cpu = 5 // begun again
	s.clock.Step(2 * time.Second)
	if v := ask().Pods[0].Containers[0].CPU.UsageNanoCores; v != nil {
		t.Errorf("a counter that began again has the speed %d", *v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	<-s.turn
	if _, err := s.Usage(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever gave up waits on: %v", err)
	}
	s.turn <- struct{}{}
}

func TestOldRuntime(t *testing.T) {
	s := newStage(t)
	s.engine.old = true
	sum, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(sum.Pods) != 1 || *sum.Pods[0].Memory.WorkingSetBytes != 1000 || *sum.Pods[0].CPU.UsageCoreNanoSeconds != 1e9 {
		t.Errorf("pods %+v", sum.Pods)
	}
}

func TestMetrics(t *testing.T) {
	s := newStage(t)
	get := func(h http.Handler) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Body.String()
	}
	body := get(s.ResourceMetrics())
	for _, want := range []string{
		`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1 1000000000000`,
		`container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1000 1000000000000`,
		`container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 7 `, `container_swap_limit_bytes{container="c",namespace="ns",pod="p"} 10 `,
		`container_start_time_seconds{container="c",namespace="ns",pod="p"} 2e+09`, `pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1 `,
		`pod_memory_working_set_bytes{namespace="ns",pod="p"} 1000 `, `pod_swap_usage_bytes{namespace="ns",pod="p"} 7 `,
		"# TYPE node_cpu_usage_seconds_total counter", "\nnode_memory_working_set_bytes ", "\nnode_swap_usage_bytes ",
		"\nscrape_error 0\n", "\nresource_scrape_error 0\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if body := get(s.ContainerMetrics()); !strings.Contains(body, `container_cpu_usage_seconds_total{container="c",cpu="total",id="/podu1/c",image="registry.example/c:1",name="cid",namespace="ns",pod="p"} 1 `) ||
		!strings.Contains(body, `container_network_receive_bytes_total{container="",id="/podu1",image="",interface="eth0",name="",namespace="ns",pod="p"} 11 `) ||
		!strings.Contains(body, `machine_memory_bytes`) {
		t.Errorf("container metrics:\n%s", body)
	}
	status := &s.pod.Status
	status.InitContainerStatuses, status.ContainerStatuses = status.ContainerStatuses, nil
	for _, kind := range []string{"init", "ephemeral"} {
		if body := get(s.ContainerMetrics()); !strings.Contains(body, `container_memory_rss{container="c",id="/podu1/c",image="registry.example/c:1",name="cid",namespace="ns",pod="p"} `) {
			t.Errorf("metrics of an %s container:\n%s", kind, body)
		}
		status.EphemeralContainerStatuses, status.InitContainerStatuses = status.InitContainerStatuses, nil
	}
	s.clock.Step(time.Minute)
	s.engine.err = errors.New("sick")
	if body := get(s.ResourceMetrics()); !strings.Contains(body, "\nresource_scrape_error 1\n") || strings.Contains(body, "node_cpu") {
		t.Errorf("of a sick runtime:\n%s", body)
	}
}

func TestHandler(t *testing.T) {
	for query, code := range map[string]int{"": 200, "?only_cpu_and_memory=true": 200, "?only_cpu_and_memory=perhaps": 400} {
		s := newStage(t)
		w := httptest.NewRecorder()
		s.SummaryHandler().ServeHTTP(w, httptest.NewRequest("GET", "/stats/summary"+query, nil))
		if w.Code != code {
			t.Errorf("%q: %d %s", query, w.Code, w.Body)
		}
		if code != 200 {
			continue
		}
		var sum statsapi.Summary
		if err := json.Unmarshal(w.Body.Bytes(), &sum); err != nil || len(sum.Pods) != 1 || (sum.Node.Fs == nil) != (query != "") {
			t.Errorf("%q: %v %s", query, err, w.Body)
		}
	}
}

func TestStorage(t *testing.T) {
	s := newStage(t)
	used := func(age time.Duration) uint64 {
		t.Helper()
		st, err := s.Storage(t.Context(), s.pod, age)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range st.VolumeStats {
			return *v.UsedBytes
		}
		return 0
	}
	before := used(10 * time.Second)
	s.write(t, "pods/u1/volumes/kubernetes.io~empty-dir/scratch/more", 1<<20)
	if v := used(10 * time.Second); v != before {
		t.Errorf("measured again at once: %d, then %d", before, v)
	}
	s.clock.Step(10 * time.Second)
	if v := used(10 * time.Second); v < before+1<<20 {
		t.Errorf("not measured again: %d, then %d", before, v)
	}
}

func TestMeasure(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write := func(path string, size int) {
		t.Helper()
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(other, "big"), 1<<20)
	write(filepath.Join(dir, "a"), 64<<10)
	for _, err := range []error{
		os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")),
		os.Symlink(other, filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.Mkdir(filepath.Join(dir, "tmpfs"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if f, err := os.Create(filepath.Join(dir, "hole")); err != nil || f.Truncate(1<<30) != nil || f.Close() != nil {
		t.Fatal("make a file with a hole")
	}
	if os.Geteuid() == 0 {
		if err := unix.Mount("tmpfs", filepath.Join(dir, "tmpfs"), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(filepath.Join(dir, "tmpfs"), 0); err != nil {
				t.Error(err)
			}
		})
		write(filepath.Join(dir, "tmpfs", "big"), 1<<20)
	}
	d, err := Measure(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if d.Bytes < 64<<10 || d.Bytes > 128<<10 {
		t.Errorf("%d bytes: links, holes and other file systems count", d.Bytes)
	}
	if d.Inodes < 5 || d.Inodes > 6 { // the directory itself, a, link, sub, hole; tmpfs where nothing is mounted
		t.Errorf("%d inodes", d.Inodes)
	}
	if d, err := Measure(t.Context(), filepath.Join(dir, "none")); err != nil || d != (Disk{}) {
		t.Errorf("what is not there holds %+v, %v", d, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever gave up walks on: %v", err)
	}
}

func TestReadMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(path, []byte("MemTotal:  1000 kB\nMemFree:  300 kB\nInactive(file):  100 kB\nAnonPages: 50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := ReadMemory(path)
	want := Memory{Capacity: 1000 << 10, Available: 400 << 10, Usage: 700 << 10, WorkingSet: 600 << 10, Anonymous: 50 << 10, SwapTotal: 10 << 10, SwapFree: 4 << 10}
	if err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadMemory(path); err == nil {
		t.Error("nothing is taken for memory")
	}
}
