package evict

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/kubelet/pod"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scenario files")

// TestScenarios plays testdata/*.txt; see README.md there.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s: what happens differs (go test -rewrite shows it by git diff); got:\n%s", file, got)
			}
		})
	}
}

// world is the node of a scenario: it is the manager's observer, statistics and
// kubelet.
type world struct {
	out       bytes.Buffer
	clock     *clocktesting.FakeClock
	left      Observations
	dedicated bool
	freed     Observations
	pods      []*v1.Pod
	make      func(maxPodGrace int64, soft ...Threshold) // another manager
	manager   *Manager
	usage     map[types.UID]*statsapi.PodStats
}

func (w *world) Observe(context.Context) (Observations, error) { return w.left, nil }
func (w *world) Dedicated(context.Context) (bool, error)       { return w.dedicated, nil }
func (w *world) say(format string, args ...any)                { fmt.Fprintf(&w.out, "    "+format+"\n", args...) }
func (w *world) Summary(context.Context) (*statsapi.Summary, error) {
	s := &statsapi.Summary{}
	for _, p := range w.pods {
		if st := w.usage[p.UID]; st != nil {
			s.Pods = append(s.Pods, *st)
		}
	}
	return s, nil
}

func (w *world) Storage(_ context.Context, p *v1.Pod, _ time.Duration) (*statsapi.PodStats, error) {
	w.say("measures %s", p.Name)
	return w.usage[p.UID], nil
}

func (w *world) evict(uid types.UID, e pod.Eviction) error {
	w.say("evicts %s within %ds: %s: %q", uid, e.GraceSeconds, e.Reason, e.Message)
	if c := e.Condition; c != nil {
		w.say("  condition %s=%s %s", c.Type, c.Status, c.Reason)
	}
	return nil
}

func play(t *testing.T, text string) string {
	w := &world{clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), left: Observations{}, usage: map[types.UID]*statsapi.PodStats{}}
	recorder := record.NewFakeRecorder(100)
	reclaim := func(context.Context) error {
		w.say("frees what no pod needs")
		for s, o := range w.freed {
			w.left[s] = o
		}
		return nil
	}
	w.make = func(maxPodGrace int64, soft ...Threshold) {
		var err error
		w.manager, err = New(Config{
			NodeName: "n1", Observer: w, Stats: w, Pods: func() []*v1.Pod { return w.pods }, Evict: w.evict,
			Recorder: func() record.EventRecorder { return recorder },
			Changed:  func() { w.say("tells the node") },
			Reclaim:  []func(context.Context) error{reclaim}, Clock: w.clock, MaxPodGrace: maxPodGrace,
			Thresholds: append(append(DefaultThresholds(), Threshold{Signal: PIDAvailable, Amount: Amount{Percent: 0.01}}), soft...),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.make(0)
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // what happened last time
		}
		fmt.Fprintln(&w.out, line)
		command, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		f := strings.Fields(command)
		if err := w.do(t, f[0], f[1:]); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for len(recorder.Events) > 0 {
			w.say("event %s", <-recorder.Events)
		}
	}
	return w.out.String()
}

func (w *world) do(t *testing.T, verb string, args []string) error {
	m := w.manager
	switch verb {
	case "soft":
		o := options(args)
		th, err := ParseThresholds(Settings{
			Hard: map[string]string{}, Soft: map[string]string{args[0]: o["below"]}, SoftGrace: map[string]string{args[0]: o["for"]},
			MinimumReclaim: map[string]string{args[0]: cmp.Or(o["reclaim"], "0")},
		})
		if err != nil {
			return err
		}
		most, err := strconv.ParseInt(cmp.Or(o["max-pod-grace"], "0"), 10, 64)
		if err != nil {
			return err
		}
		w.make(most, th...)
	case "machine":
		w.dedicated = slices.Contains(args, "dedicated")
		w.left = observations(t, args)
	case "reclaim":
		w.freed = observations(t, args)
	case "pod":
		w.pods = append(w.pods, makePod(args))
	case "uses":
		w.usage[types.UID(args[0])] = makeUsage(args)
	case "over", "gone":
		i := slices.IndexFunc(w.pods, func(p *v1.Pod) bool { return p.Name == args[0] })
		if verb == "gone" {
			w.pods = slices.Delete(w.pods, i, i+1)
			break
		}
		w.pods[i].Status.Phase = v1.PodFailed
	case "after":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		w.clock.Step(d)
	case "admit":
		i := slices.IndexFunc(w.pods, func(p *v1.Pod) bool { return p.Name == args[0] })
		if r := m.Admit(t.Context(), w.pods[i], nil); r != nil {
			w.say("refused: %s: %q", r.Reason, r.Message)
		} else {
			w.say("admitted")
		}
	case "look":
		again, err := m.Sync(t.Context())
		if err != nil {
			return err
		}
		switch again {
		case m.cfg.Every:
		case m.cfg.Hurry:
			w.say("looks again soon")
		default:
			w.say("looks again in %s", again)
		}
		memory, disk, pids := m.Pressure()
		if memory || disk || pids {
			w.say("pressure: memory=%v disk=%v pids=%v", memory, disk, pids)
		}
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

func observations(t *testing.T, args []string) Observations {
	o := Observations{}
	for _, a := range args {
		name, v, ok := strings.Cut(a, "=")
		if !ok {
			continue
		}
		left, all, ok := strings.Cut(v, "/")
		if !ok {
			t.Fatalf("%s: no capacity", a)
		}
		l, c := resource.MustParse(left), resource.MustParse(all)
		o[Signal(name)] = Observation{Available: l.Value(), Capacity: c.Value()}
	}
	return o
}

func options(args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args[1:] {
		name, v, _ := strings.Cut(a, "=")
		out[name] = v
	}
	return out
}

func makePod(args []string) *v1.Pod {
	o := options(args)
	c := v1.Container{Name: "c"}
	set := func(list *v1.ResourceList, option string, name v1.ResourceName) {
		if v := o[option]; v != "" {
			if *list == nil {
				*list = v1.ResourceList{}
			}
			(*list)[name] = resource.MustParse(v)
		}
	}
	set(&c.Resources.Requests, "request", v1.ResourceMemory)
	set(&c.Resources.Requests, "disk-request", v1.ResourceEphemeralStorage)
	set(&c.Resources.Limits, "disk-limit", v1.ResourceEphemeralStorage)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: args[0], Namespace: "ns", UID: types.UID(args[0])}, Spec: v1.PodSpec{Containers: []v1.Container{c}}}
	p.Status.Phase = v1.PodRunning
	if v, err := strconv.ParseInt(o["priority"], 10, 32); err == nil {
		priority := int32(v)
		p.Spec.Priority = &priority
	}
	if _, ok := o["static"]; ok {
		p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	}
	if v, err := strconv.ParseInt(o["grace"], 10, 64); err == nil {
		p.Spec.TerminationGracePeriodSeconds = &v
	}
	if _, ok := o["tolerant"]; ok {
		p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoSchedule}}
	}
	if v := o["emptydir"]; v != "" {
		limit := resource.MustParse(v)
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	}
	return p
}

func makeUsage(args []string) *statsapi.PodStats {
	o := options(args)
	number := func(option string) *uint64 {
		v := uint64(0)
		if o[option] != "" {
			q := resource.MustParse(o[option])
			v = uint64(q.Value())
		}
		return &v
	}
	return &statsapi.PodStats{
		PodRef: statsapi.PodReference{Name: args[0], Namespace: "ns", UID: args[0]},
		Memory: &statsapi.MemoryStats{WorkingSetBytes: number("memory")},
		Containers: []statsapi.ContainerStats{{
			Name: "c", Memory: &statsapi.MemoryStats{WorkingSetBytes: number("memory")},
			Rootfs: &statsapi.FsStats{UsedBytes: number("layer"), InodesUsed: number("inodes")}, Logs: &statsapi.FsStats{UsedBytes: number("logs")},
		}},
		VolumeStats:  []statsapi.VolumeStats{{Name: "v", FsStats: statsapi.FsStats{UsedBytes: number("volume")}}},
		ProcessStats: &statsapi.ProcessStats{ProcessCount: number("processes")},
	}
}
