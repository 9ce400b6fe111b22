package dra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"
)

// Kubernetes' times: how long what a driver tells of a device holds unless the driver says, and after which a driver that has ended its
// report is asked for another.
const (
	healthLasts = 30 * time.Second
	healthRetry = 5 * time.Second
)

// maxDevices is of how many devices it is remembered what a driver tells, besides those that claims of this node have. Drivers tell of all that
// they have, not only of those, and a driver that makes up names is not to fill the memory.
const maxDevices = 4096

// deviceID names a device.
type deviceID struct{ driver, pool, name string }

// possible says whether a device may have that name: what the API takes for names of pools and of devices is no longer.
func (d deviceID) possible() bool {
	return d.name != "" && len(d.pool) <= resourcev1.PoolNameMaxLength && len(d.name) <= validation.DNS1123LabelMaxLength
}

// health is what a driver has told of a device.
type health struct {
	by      *driver
	status  v1.ResourceHealthStatus
	message string
	until   time.Time // not known any more then
}

// health1Alpha is the older version of healthpb.DRAResourceHealthService. Its messages are one on the wire.
const health1Alpha = "v1alpha1.DRAResourceHealth"

// healthService returns the gRPC service at which a driver tells of the health of its devices, empty if it has none.
func healthService(versions []string) string {
	for _, s := range []string{healthpb.DRAResourceHealthService, health1Alpha} {
		if slices.Contains(versions, s) {
			return s
		}
	}
	return ""
}

// watchHealth follows what a driver tells until ctx ends. While the driver is away it waits for its return.
func (d *driver) watchHealth(ctx context.Context) {
	m := d.m
	for {
		m.mu.Lock()
		connected, news := d.connected, m.news
		m.mu.Unlock()
		var retry <-chan time.Time
		if connected {
			err := d.followHealth(ctx)
			m.silent(d)
			switch {
			case ctx.Err() != nil:
				return
			case status.Code(err) == codes.Unimplemented: // it advertises what it has not, as all do that are made with Kubernetes' library
				m.mu.Lock()
				m.heard[d.name] = true
				m.mu.Unlock()
				return
			}
			klog.FromContext(ctx).V(3).Info("A driver tells no more of the health of its devices, will ask again", "driver", d.name, "reason", err)
			retry = time.After(healthRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-retry:
		}
	}
}

// followHealth takes in one report until the driver ends it.
func (d *driver) followHealth(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "NodeWatchResources", ServerStreams: true}, "/"+d.health+"/NodeWatchResources")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&healthpb.NodeWatchResourcesRequest{}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		r := &healthpb.NodeWatchResourcesResponse{}
		if err := stream.RecvMsg(r); err != nil {
			return err
		}
		if n := d.m.told(d, r.Devices); n > 0 {
			klog.FromContext(ctx).V(2).Info("A driver tells of more devices than are remembered", "driver", d.name, "ignored", n, "remembered", maxDevices)
		}
	}
}

// told takes in what a driver says of devices; those that it does not name are as before. It returns of how many it takes in nothing: those
// that cannot be, and those beyond maxDevices.
func (m *Manager) told(d *driver, devices []*healthpb.DeviceHealth) (ignored int) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[d.name] = true
	m.fade(now)
	claimed, room := m.claimedOf(d.name), maxDevices
	for id := range m.health {
		if id.driver == d.name && !claimed[id] {
			room--
		}
	}
	changed := map[deviceID]bool{}
	for _, r := range devices {
		id := deviceID{d.name, r.GetDevice().GetPoolName(), r.GetDevice().GetDeviceName()}
		old, known := m.health[id]
		if !known && !claimed[id] {
			if room <= 0 || !id.possible() {
				ignored++
				continue
			}
			room--
		}
		h := health{by: d, status: v1.ResourceHealthStatusUnknown, message: shorten(r.GetMessage()), until: now.Add(healthLasts)}
		switch r.GetHealth() {
		case healthpb.HealthStatus_HEALTHY:
			h.status = v1.ResourceHealthStatusHealthy
		case healthpb.HealthStatus_UNHEALTHY:
			h.status = v1.ResourceHealthStatusUnhealthy
		}
		if s := r.GetHealthCheckTimeoutSeconds(); s > 0 {
			h.until = now.Add(time.Duration(min(s, int64(maxLasts/time.Second))) * time.Second)
		}
		if !known || old.status != h.status || old.message != h.message {
			changed[id] = true
		}
		m.health[id] = h
	}
	m.fade(now)
	m.wake(changed)
	return ignored
}

// claimedOf are the devices of a driver that claims of this node have. The caller holds mu.
func (m *Manager) claimedOf(driver string) map[deviceID]bool {
	all := map[deviceID]bool{}
	for _, c := range m.claims {
		if c.record == nil {
			continue
		}
		for _, d := range c.record.Drivers[driver] {
			all[deviceID{driver, d.Pool, d.Name}] = true
		}
	}
	return all
}

// maxLasts bounds what a driver asks for, so that times do not overflow.
const maxLasts = 365 * 24 * time.Hour

// shorten cuts a message that is longer than a status may have.
func shorten(message string) string {
	const gap = "..."
	if len(message) <= v1.ResourceHealthMessageMaxLength {
		return message
	}
	n := v1.ResourceHealthMessageMaxLength - len(gap)
	for n > 0 && !utf8.RuneStart(message[n]) {
		n--
	}
	return message[:n] + gap
}

// silent forgets what a program of a driver has told, as its report has ended.
func (m *Manager) silent(d *driver) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := map[deviceID]bool{}
	for id, h := range m.health {
		if h.by == d {
			delete(m.health, id)
			gone[id] = true
		}
	}
	m.wake(gone)
}

// fade forgets what holds no more, and sets the clock for what does so next. The caller holds mu.
func (m *Manager) fade(now time.Time) {
	if m.fading != nil {
		m.fading.Stop()
		m.fading = nil
	}
	gone, next := map[deviceID]bool{}, time.Time{}
	for id, h := range m.health {
		switch {
		case !h.until.After(now):
			delete(m.health, id)
			gone[id] = true
		case next.IsZero() || h.until.Before(next):
			next = h.until
		}
	}
	if !next.IsZero() && m.ctx.Err() == nil {
		m.fading = time.AfterFunc(next.Sub(now), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.fade(time.Now())
		})
	}
	m.wake(gone)
}

// wake has the status of Pods told anew that have one of the devices. The caller holds mu.
func (m *Manager) wake(devices map[deviceID]bool) {
	if len(devices) == 0 || m.cfg.Changed == nil {
		return
	}
	pods := map[types.UID]bool{}
	for _, c := range m.claims {
		if c.record == nil {
			continue
		}
		for driver, list := range c.record.Drivers {
			if slices.ContainsFunc(list, func(d device) bool { return devices[deviceID{driver, d.Pool, d.Name}] }) {
				for _, uid := range c.record.Pods {
					pods[uid] = true
				}
			}
		}
	}
	for uid := range pods {
		m.spawn(func() { m.cfg.Changed(uid) }) // not here: who is told may ask
	}
}

// Health returns what is known of the health of the devices that a container of the Pod has of claims that it names; nil for nothing. It
// may be called for any Pod at any time, and costs nothing for one without claims.
//
// What an earlier process has told stays until the driver has spoken to this one, or has had time to.
func (m *Manager) Health(p *v1.Pod, c *v1.Container) (list []v1.ResourceStatus) {
	for _, of := range c.Resources.Claims {
		i := slices.IndexFunc(p.Spec.ResourceClaims, func(r v1.PodResourceClaim) bool { return r.Name == of.Name })
		if i < 0 {
			continue
		}
		name, _, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue // it is not there yet, or none is needed
		}
		r := m.recordOf(types.NamespacedName{Namespace: p.Namespace, Name: *name})
		if r == nil || !slices.Contains(r.Pods, p.UID) {
			continue
		}
		s := v1.ResourceStatus{Name: v1.ResourceName("claim:" + of.Name)}
		if of.Request != "" {
			s.Name += v1.ResourceName("/" + of.Request)
		}
		s.Resources = m.healths(r, of.Request, toldBefore(p, c.Name, s.Name))
		if len(s.Resources) > 0 {
			list = append(list, s)
		}
	}
	return list
}

// toldBefore is what the Pod's status says of a resource of a container.
func toldBefore(p *v1.Pod, container string, resource v1.ResourceName) []v1.ResourceHealth {
	for _, c := range p.Status.ContainerStatuses {
		for _, r := range c.AllocatedResourcesStatus {
			if c.Name == container && r.Name == resource {
				return r.Resources
			}
		}
	}
	return nil
}

// healths tells of the devices that are for a request of a claim, or of all of the claim's; each ID once.
func (m *Manager) healths(r *record, request string, before []v1.ResourceHealth) (list []v1.ResourceHealth) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, driver := range slices.Sorted(maps.Keys(r.Drivers)) {
		for _, d := range r.Drivers[driver] {
			id := v1.ResourceID(fmt.Sprintf("%s/%s/%s", driver, d.Pool, d.Name))
			if len(d.CDI) > 0 {
				id = v1.ResourceID(d.CDI[0])
			}
			if !d.serves(request) || slices.ContainsFunc(list, func(h v1.ResourceHealth) bool { return h.ResourceID == id }) {
				continue
			}
			list = append(list, m.healthOf(deviceID{driver, d.Pool, d.Name}, id, before))
		}
	}
	return list
}

// healthOf tells of one device. The caller holds mu.
func (m *Manager) healthOf(id deviceID, as v1.ResourceID, before []v1.ResourceHealth) v1.ResourceHealth {
	out := v1.ResourceHealth{ResourceID: as, Health: v1.ResourceHealthStatusUnknown}
	h, known := m.health[id]
	i := slices.IndexFunc(before, func(b v1.ResourceHealth) bool { return b.ResourceID == as })
	switch {
	case known:
		out.Health = h.status
		if h.message != "" {
			out.Message = &h.message
		}
	case i >= 0 && m.mayStillTell(id.driver):
		out = before[i]
	}
	return out
}

// mayStillTell says whether the driver has not spoken to this process, and has time to: those whose status relies on that are told anew
// when it is over. The caller holds mu.
func (m *Manager) mayStillTell(driver string) bool {
	left := time.Until(m.began.Add(healthLasts))
	if m.heard[driver] || left <= 0 || m.ctx.Err() != nil {
		return false
	}
	if m.hearing == nil {
		m.hearing = time.AfterFunc(left, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			all := map[deviceID]bool{}
			for _, c := range m.claims {
				if c.record == nil {
					continue
				}
				for name, list := range c.record.Drivers {
					for _, d := range list {
						all[deviceID{name, d.Pool, d.Name}] = !m.heard[name]
					}
				}
			}
			m.wake(all)
		})
	}
	return true
}
