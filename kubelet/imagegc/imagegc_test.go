package imagegc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/critest"
)

// disk is an image store that fills a disk of 1000 bytes.
type disk struct {
	internalapi.ImageManagerService
	images map[string]*runtimeapi.Image
	broken string
	other  int64 // bytes that are no image
	err    error
}

func (d *disk) add(id string, size uint64, change ...func(*runtimeapi.Image)) {
	img := &runtimeapi.Image{Id: id, RepoTags: []string{id + ":latest"}, Size: size}
	for _, c := range change {
		c(img)
	}
	d.images[id] = img
}

func (d *disk) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return slices.Collect(maps.Values(d.images)), d.err
}

func (d *disk) ImageStatus(_ context.Context, s *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: d.images[strings.TrimSuffix(s.Image, ":v1")]}, nil
}

func (d *disk) RemoveImage(_ context.Context, s *runtimeapi.ImageSpec) error {
	if s.Image == d.broken {
		return errors.New("stuck")
	}
	delete(d.images, s.Image)
	return nil
}

func (d *disk) room(context.Context) (int64, int64, error) {
	left := 1000 - d.other
	for _, i := range d.images {
		left -= int64(i.Size)
	}
	return left, 1000, nil
}

func (d *disk) names() string {
	return strings.Join(slices.Sorted(maps.Keys(d.images)), " ")
}

type stage struct {
	*Collector
	disk   *disk
	clock  *clocktesting.FakeClock
	rt     *critest.Runtime
	pods   []*v1.Pod
	events *record.FakeRecorder
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{
		disk: &disk{images: map[string]*runtimeapi.Image{}}, clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), rt: critest.New(),
		events: record.NewFakeRecorder(10),
	}
	var err error
	s.Collector, err = New(Config{
		NodeName: "n1", Runtime: s.rt, Images: s.disk, Pods: func() []*v1.Pod { return s.pods }, Room: s.disk.room,
		Recorder: func() record.EventRecorder { return s.events }, Clock: s.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// use makes a container of an image, of a Pod.
func (s *stage) use(t *testing.T, image, uid string) string {
	t.Helper()
	sandbox := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: uid, Uid: uid}}
	id, err := s.rt.RunPodSandbox(t.Context(), sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.rt.CreateContainer(t.Context(), id, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: image}, Image: &runtimeapi.ImageSpec{Image: image}, Labels: map[string]string{criconfig.LabelPodUID: uid},
	}, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.rt.StartContainer(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *stage) collect(t *testing.T) {
	t.Helper()
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCollect(t *testing.T) {
	s := newStage(t)
	for _, id := range []string{"running", "dead", "volume"} {
		s.disk.add(id, 100)
	}
	s.disk.add("pinned", 100, func(i *runtimeapi.Image) { i.Pinned = true })
	s.disk.add("old", 100)
	s.use(t, "running:latest", "u1")
	s.use(t, "dead", "u2")
	if err := s.rt.Exit("dead", 0, "Completed"); err != nil {
		t.Fatal(err)
	}
	s.pods = []*v1.Pod{{Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "volume:v1"}}}}}}}
	s.disk.add("lately", 100)
	lately := s.use(t, "lately", "u3")
	s.collect(t) // below the threshold
	if got := s.disk.names(); got != "dead lately old pinned running volume" {
		t.Fatalf("collected at 60 %%: %s", got)
	}
	s.clock.Step(time.Hour)
	if err := s.rt.RemoveContainer(t.Context(), lately); err != nil {
		t.Fatal(err)
	}
	s.disk.add("new", 240)
	s.collect(t) // 84 %
	if got := s.disk.names(); !strings.Contains(got, "old") {
		t.Fatalf("collected at 84 %%: %s", got)
	}
	s.disk.other = 20
	s.collect(t) // 86 %: 60 bytes are to go
	if got := s.disk.names(); got != "dead lately new pinned running volume" {
		t.Fatalf("the longest unused one alone goes, not: %s", got)
	}
	// 89 %: 90 bytes, more than is old enough: new has been here for a moment.
	s.disk.other, s.disk.images["lately"].Size = 200, 50
	err := s.Collect(t.Context())
	want := "Failed to garbage collect required amount of images. Attempted to free 90 bytes, but only found 50 bytes eligible to free."
	if err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if e := <-s.events.Events; e != "Warning FreeDiskSpaceFailed "+want {
		t.Errorf("event %q", e)
	}
	if got := s.disk.names(); got != "dead new pinned running volume" {
		t.Errorf("left: %s", got)
	}
	s.clock.Step(2 * time.Minute)
	if err := s.RemoveUnused(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.disk.names(); got != "dead pinned running volume" {
		t.Errorf("left after all unused went: %s", got)
	}
}

func TestFailures(t *testing.T) {
	s := newStage(t)
	s.disk.err = errors.New("sick")
	for range 2 {
		if err := s.Collect(t.Context()); err == nil {
			t.Error("a failure is not told")
		}
	}
	if len(s.events.Events) != 1 {
		t.Errorf("%d events: the first failure may be by chance", len(s.events.Events))
	}
	if e := <-s.events.Events; e != "Warning ImageGCFailed list images: sick" {
		t.Errorf("event %q", e)
	}
	// The stuck one has its turn first: it has been here longer.
	s.disk.err, s.disk.broken = nil, "stuck"
	s.disk.add("stuck", 100)
	s.collect(t)
	s.clock.Step(time.Minute)
	s.disk.add("loose", 100)
	s.collect(t)
	s.clock.Step(time.Hour)
	s.disk.other = 700
	if err := s.Collect(t.Context()); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("error %v", err)
	}
	if got := s.disk.names(); got != "stuck" {
		t.Errorf("one that is stuck keeps others: %s", got)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
}

// TestStart: what was here before the kubelet is old enough to go.
func TestStart(t *testing.T) {
	s := newStage(t)
	s.disk.add("before", 900)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); !s.clock.HasWaiters(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not wait for its next look")
		}
	}
	s.clock.Step(time.Second)
	s.collect(t)
	if got := s.disk.names(); got != "" {
		t.Errorf("left: %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDeadContainers(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"over", "alive", "runs"} {
		s.use(t, name, name)
		s.pods = append(s.pods, &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(name)}})
	}
	s.pods[0].Status.Phase, s.pods[2].Status.Phase = v1.PodFailed, v1.PodFailed
	for _, name := range []string{"over", "alive"} {
		if err := s.rt.Exit(name, 1, "Error"); err != nil {
			t.Fatal(err)
		}
	}
	if err := DeadContainers(s.rt, func() []*v1.Pod { return s.pods })(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	for name := range s.rt.Configs() {
		left = append(left, name)
	}
	slices.Sort(left)
	if got := strings.Join(left, " "); got != "alive runs" {
		t.Errorf("left: %s", got)
	}
}
