package dra

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"

	drivers "github.com/peapod/peapod/test/images/dradriver/driver"
)

// health is what is known of the devices of the Pod's container, "resource: device=health message", joined by "; ".
func (w *world) health(p *v1.Pod) string {
	var out []string
	for _, r := range w.dra.Health(p, &p.Spec.Containers[0]) {
		for _, h := range r.Resources {
			text := string(r.Name) + ": " + string(h.ResourceID)[strings.LastIndexAny(string(h.ResourceID), "-/")+1:] + "=" + string(h.Health)
			if h.Message != nil {
				text += " " + *h.Message
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

// awaitHealth waits until that is known, which it looks at when the Pod is woken.
func (w *world) awaitHealth(p *v1.Pod, want string) {
	w.t.Helper()
	end := time.After(patience)
	for {
		got := w.health(p)
		if got == want {
			return
		}
		select {
		case uid := <-w.woken:
			if uid != p.UID {
				w.t.Errorf("pod %s was woken", uid)
			}
		case <-end:
			w.t.Fatalf("%q, want %q", got, want)
		}
	}
}

func report(lasts time.Duration, devices map[string]string) kubeletplugin.DeviceHealthReport {
	var r kubeletplugin.DeviceHealthReport
	for name, says := range devices {
		health, message, _ := strings.Cut(says, " ")
		r.Devices = append(r.Devices, kubeletplugin.DeviceHealth{PoolName: "n1", DeviceName: name, Health: kubeletplugin.HealthStatus(health), Message: message, HealthCheckTimeout: lasts})
	}
	return r
}

// The health of devices is what their driver has said last, for as long as that holds and the driver is there.
func TestHealth(t *testing.T) {
	for version, options := range map[string][]kubeletplugin.Option{"v1": nil, "v1alpha1": {kubeletplugin.HealthV1(false)}} {
		t.Run(version, func(t *testing.T) {
			w := start(t)
			reports := make(chan kubeletplugin.DeviceHealthReport)
			d := w.driver(func(c *drivers.Config) { c.Health, c.Options = reports, options })
			p := user("p", "c")
			w.claim("c", nil, p)
			if got := w.health(p); got != "" {
				t.Errorf("before it is prepared: %q", got)
			}
			w.prepare(p)
			w.awaitHealth(p, "claim:c: 0=Unknown; claim:c: 1=Unknown")
			reports <- report(time.Hour, map[string]string{"device-0": "Healthy 45°C", "device-1": "Unhealthy", "device-7": "Healthy"})
			w.awaitHealth(p, "claim:c: 0=Healthy 45°C; claim:c: 1=Unhealthy")
			if got := w.health(user("q", "c")); got != "" {
				t.Errorf("of a Pod for which the claim is not prepared: %q", got)
			}
			one := p.DeepCopy()
			one.Spec.Containers[0].Resources.Claims[0].Request = "first"
			if got := w.health(one); got != "claim:c/first: 0=Healthy 45°C" {
				t.Errorf("of one request: %q", got)
			}
			// What a report does not name stays, until it holds no more.
			reports <- report(time.Second, map[string]string{"device-1": "Healthy"})
			w.awaitHealth(p, "claim:c: 0=Healthy 45°C; claim:c: 1=Unknown")
			d.Stop()
			w.awaitHealth(p, "claim:c: 0=Unknown; claim:c: 1=Unknown")
			w.driver(func(c *drivers.Config) { c.Health, c.Options = reports, options })
			reports <- report(time.Hour, map[string]string{"device-0": "Unhealthy " + strings.Repeat("°", 1000)})
			w.awaitHealth(p, "claim:c: 0=Unhealthy "+strings.Repeat("°", 510)+"...; claim:c: 1=Unknown")
			w.release(p)
			if got := w.health(p); got != "" {
				t.Errorf("after it was given back: %q", got)
			}
		})
	}
}

// What an earlier process has told stays until the driver has had a say.
func TestHealthAfterRestart(t *testing.T) {
	w := start(t)
	reports := make(chan kubeletplugin.DeviceHealthReport)
	d := w.driver(func(c *drivers.Config) { c.Health = reports })
	p := user("p", "c")
	w.claim("c", nil, p)
	w.prepare(p)
	reports <- report(time.Hour, map[string]string{"device-0": "Unhealthy broken"})
	const before = "claim:c: 0=Unhealthy broken; claim:c: 1=Unknown"
	w.awaitHealth(p, before)
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "app", AllocatedResourcesStatus: w.dra.Health(p, &p.Spec.Containers[0])}}
	d.Stop()
	w.stop()
	w.run(wipeDelay)
	w.dra.mu.Lock()
	w.dra.began = time.Now().Add(time.Hour) // so that it is the driver's say that counts, not the end of its time
	w.dra.mu.Unlock()
	if _, err := w.dra.Pods(); err != nil { // as the kubelet begins
		t.Fatal(err)
	}
	if got := w.health(p); got != before {
		t.Errorf("after the restart: %q", got)
	}
	w.driver(func(c *drivers.Config) { c.Health = reports })
	if got := w.health(p); got != before {
		t.Errorf("before the driver has said anything: %q", got)
	}
	reports <- report(time.Hour, map[string]string{"device-1": "Healthy"})
	w.awaitHealth(p, "claim:c: 0=Unknown; claim:c: 1=Healthy")
}

// Who does not come back in time has nothing to say.
func TestHealthOfDriversThatStayAway(t *testing.T) {
	w := start(t)
	d := w.driver(nil)
	p := user("p", "c")
	c := w.claim("c", nil, p)
	w.prepare(p)
	d.Stop()
	w.stop()
	w.run(wipeDelay)
	if _, err := w.dra.Pods(); err != nil {
		t.Fatal(err)
	}
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "app", AllocatedResourcesStatus: []v1.ResourceStatus{{Name: "claim:c", Resources: []v1.ResourceHealth{
		{ResourceID: v1.ResourceID(driverName + "/device=" + string(c.UID) + "-0"), Health: v1.ResourceHealthStatusHealthy}}}}}}
	w.awaitHealth(p, "claim:c: 0=Healthy; claim:c: 1=Unknown")
	for len(w.woken) > 0 {
		<-w.woken
	}
	w.dra.mu.Lock()
	w.dra.began = time.Now().Add(-healthLasts) // its time is over
	w.dra.hearing.Reset(0)
	w.dra.mu.Unlock()
	select {
	case uid := <-w.woken:
		if uid != p.UID {
			t.Errorf("pod %s is woken", uid)
		}
	case <-time.After(patience):
		t.Error("the Pod is not woken when the driver's time is over")
	}
	w.awaitHealth(p, "claim:c: 0=Unknown; claim:c: 1=Unknown")
}

// A driver that makes up devices does not fill the memory, nor keep out what it tells of those that Pods have, nor what others tell.
func TestHealthIsBounded(t *testing.T) {
	w := start(t)
	reports := make(chan kubeletplugin.DeviceHealthReport)
	w.driver(func(c *drivers.Config) { c.Health = reports })
	p := user("p", "c")
	w.claim("c", nil, p)
	w.prepare(p)
	told := func(claimed, want string) {
		t.Helper()
		made := map[string]string{claimed: "Healthy", strings.Repeat("n", 64): "Healthy"}
		for i := range maxDevices {
			made[fmt.Sprint("for-", claimed, "-", i)] = "Healthy"
		}
		reports <- report(time.Hour, made)
		w.awaitHealth(p, want)
	}
	told("device-1", "claim:c: 0=Unknown; claim:c: 1=Healthy")
	told("device-0", "claim:c: 0=Healthy; claim:c: 1=Healthy")
	other := &driver{name: "other"}
	if ignored := w.dra.told(other, []*healthpb.DeviceHealth{{Device: &healthpb.DeviceIdentifier{PoolName: "p", DeviceName: "d"}}}); ignored != 0 {
		t.Errorf("of another driver %d devices are ignored", ignored)
	}
	w.dra.mu.Lock()
	defer w.dra.mu.Unlock()
	if got := len(w.dra.health); got != maxDevices+3 {
		t.Errorf("%d devices are remembered, want %d and those of the claim and of the other driver", got, maxDevices)
	}
	for id := range w.dra.health {
		if len(id.name) > 63 {
			t.Errorf("device %s is remembered", id.name)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("a", 1024), strings.Repeat("a", 1025), strings.Repeat("°", 600), "a" + strings.Repeat("°", 600)} {
		got := shorten(text)
		if len(text) <= 1024 && got != text || len(got) > 1024 || !utf8.ValidString(got) || len(text) > 1024 && !strings.HasSuffix(got, "...") {
			t.Errorf("of %d bytes %d: %q", len(text), len(got), got)
		}
	}
}
