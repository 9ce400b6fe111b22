package pod_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/pod"
)

// devices are there at once, unless err says otherwise, and remember whose they are.
type devices struct {
	mu    sync.Mutex
	of    map[types.UID]bool
	err   error // of Prepare and Release
	tried chan struct{}
	// health is that of all devices; empty while it is not known.
	health v1.ResourceHealthStatus
}

func (d *devices) Prepare(_ context.Context, p *v1.Pod) error {
	if len(p.Spec.ResourceClaims) == 0 {
		return nil
	}
	return d.try(func() { d.of[p.UID] = true })
}

func (d *devices) Release(_ context.Context, uid types.UID) error {
	d.mu.Lock()
	has := d.of[uid]
	d.mu.Unlock()
	if !has {
		return nil
	}
	return d.try(func() { delete(d.of, uid) })
}

func (d *devices) try(do func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		select {
		case d.tried <- struct{}{}:
		default:
		}
		return d.err
	}
	do()
	return nil
}

func (d *devices) Devices(p *v1.Pod, c *v1.Container) (names []string, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, claim := range c.Resources.Claims {
		if !d.of[p.UID] {
			return nil, errors.New("not prepared")
		}
		names = append(names, "vendor.example.com/gpu="+claim.Name)
	}
	return names, nil
}

func (d *devices) Health(p *v1.Pod, c *v1.Container) (list []v1.ResourceStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, claim := range c.Resources.Claims {
		if d.of[p.UID] && d.health != "" {
			list = append(list, v1.ResourceStatus{Name: v1.ResourceName("claim:" + claim.Name), Resources: []v1.ResourceHealth{{ResourceID: "gpu", Health: d.health}}})
		}
	}
	return list
}

func (d *devices) Pods() (list []types.UID, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for uid := range d.of {
		list = append(list, uid)
	}
	return list, nil
}

// say sets what Prepare and Release answer from now on.
func (d *devices) say(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func claimant(p *v1.Pod) {
	claim := "gpu"
	p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "device", ResourceClaimName: &claim}}
	p.Spec.Containers[0].Resources.Claims = []v1.ResourceClaim{{Name: "device"}}
}

// absent is the error of a driver that is not there until the channel is closed.
func absent(back chan struct{}) error {
	return &pod.RetryError{Err: errors.New("prepare dynamic resources: DRA driver d is not registered"), Ready: back}
}

// TestDevices: a Pod does not begin without the devices that it claims, begins when they can be had, and is not over before they are
// given back.
func TestDevices(t *testing.T) {
	s := newStage(t)
	back := make(chan struct{})
	s.devices.say(absent(back))
	s.start()
	p := onePod("a", claimant)
	s.m.Upsert(p)
	want := "Warning FailedPrepareDynamicResources Failed to prepare dynamic resources: prepare dynamic resources: DRA driver d is not registered"
	for got, timeout := "", time.After(time.Minute); got != want; {
		select {
		case got = <-s.events.Events:
		case <-timeout:
			t.Fatalf("no event %q", want)
		}
	}
	if !s.rt.Empty() {
		t.Fatalf("the runtime has something: %v", s.rt.Calls())
	}
	s.devices.say(nil)
	close(back)
	s.until(p, "runs", running)
	if got := s.rt.Configs()["main"].CDIDevices; len(got) != 1 || got[0].Name != "vendor.example.com/gpu=device" {
		t.Errorf("the container has %v", got)
	}

	s.devices.mu.Lock()
	s.devices.health = v1.ResourceHealthStatusUnhealthy
	s.devices.mu.Unlock()
	s.m.Wake(p.UID)
	unhealthy := func(st v1.PodStatus) bool {
		told := st.ContainerStatuses[0].AllocatedResourcesStatus
		return len(told) == 1 && told[0].Name == "claim:device" && len(told[0].Resources) == 1 && told[0].Resources[0].Health == v1.ResourceHealthStatusUnhealthy
	}
	s.until(p, "tells of the health of its device", unhealthy)

	back = make(chan struct{})
	s.devices.say(absent(back))
	s.m.Upsert(deleted(p, 1))
	select {
	case <-s.devices.tried:
	case <-time.After(time.Minute):
		t.Fatal("nothing is given back")
	}
	// That may take a while: meanwhile its status says what there is of it.
	s.until(p, "shows that its container has ended", func(st v1.PodStatus) bool {
		return len(st.ContainerStatuses) == 1 && st.ContainerStatuses[0].State.Terminated != nil && unhealthy(st)
	})
	s.devices.say(nil)
	close(back)
	s.gone(p)
	if left, _ := s.devices.Pods(); len(left) > 0 {
		t.Errorf("not given back: %v", left)
	}
}

// TestDevicesOfPodsThatAreGone: what an earlier process has prepared for a Pod that nobody knows any more is given back.
func TestDevicesOfPodsThatAreGone(t *testing.T) {
	s := newStage(t)
	s.devices.of["gone"] = true
	back := make(chan struct{})
	s.devices.say(absent(back))
	s.start()
	select {
	case <-s.devices.tried:
	case <-time.After(time.Minute):
		t.Fatal("nothing is given back")
	}
	s.devices.say(nil)
	close(back)
	s.gone(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "gone", UID: "gone"}})
	if left, _ := s.devices.Pods(); len(left) > 0 {
		t.Errorf("not given back: %v", left)
	}
}
