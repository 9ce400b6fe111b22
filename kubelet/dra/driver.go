package dra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"k8s.io/klog/v2"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/peapod/peapod/kubelet/plugin"
	"github.com/peapod/peapod/kubelet/pod"
)

// Manager is the handler of plugins of type DRAPlugin.
var _ plugin.Handler = (*Manager)(nil)

// The versions of the drivers' interface, as drivers register them. Their messages are one on the wire, but for a field that the older
// lacks.
const (
	version1     = drapb.DRAPluginService
	version1Beta = "v1beta1.DRAPlugin"
)

// driver is a program of a driver.
type driver struct {
	m              *Manager
	name, endpoint string
	// service is the gRPC service that it has.
	service string
	// health is the one at which it tells of the health of its devices, empty if it does not.
	health string
	conn   *grpc.ClientConn
	// gone ends what follows the driver.
	gone context.CancelFunc
	// connected is guarded by the Manager's mu.
	connected bool
}

// service returns the gRPC service to use of a driver, the first in its own order that is known here.
func service(versions []string) (string, error) {
	if len(versions) == 0 {
		return "", errors.New("empty list of supported gRPC services (aka supported versions)")
	}
	for _, v := range versions {
		switch v {
		case version1:
			return drapb.DRAPlugin_ServiceDesc.ServiceName, nil
		case version1Beta:
			return "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin", nil
		}
	}
	return "", fmt.Errorf("none of services supported by the plugin (%q) are supported by the kubelet (%q)", versions, []string{version1, version1Beta})
}

// Register implements plugin.Handler.
func (m *Manager) Register(ctx context.Context, reg plugin.Plugin) error {
	if reg.Name == "" {
		return errors.New("DRA driver name is empty")
	}
	svc, err := service(reg.Versions)
	if err != nil {
		return fmt.Errorf("invalid supported gRPC versions of DRA driver plugin %s at endpoint %s: %w", reg.Name, reg.Endpoint, err)
	}
	d := &driver{m: m, name: reg.Name, endpoint: reg.Endpoint, service: svc, health: healthService(reg.Versions)}
	// Who does not speak for long stays connected: the connection says whether the driver is there.
	if d.conn, err = plugin.Dial(reg.Endpoint, grpc.WithStatsHandler(d), grpc.WithIdleTimeout(0)); err != nil {
		return err
	}
	if err := m.enter(d); err != nil {
		d.close()
		return err
	}
	d.conn.Connect()
	return nil
}

func (m *Manager) enter(d *driver) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return m.ctx.Err()
	}
	if slices.ContainsFunc(m.drivers[d.name], func(o *driver) bool { return o.endpoint == d.endpoint }) {
		return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", d.endpoint, d.name)
	}
	m.drivers[d.name] = append(m.drivers[d.name], d)
	m.came(d.name)
	var ctx context.Context
	ctx, d.gone = context.WithCancel(m.ctx)
	if d.health == "" {
		m.heard[d.name] = true // as much as it is going to say
	} else {
		m.spawn(func() { d.watchHealth(ctx) })
	}
	return nil
}

// Deregister implements plugin.Handler.
func (m *Manager) Deregister(ctx context.Context, reg plugin.Plugin) {
	m.mu.Lock()
	list := m.drivers[reg.Name]
	i := slices.IndexFunc(list, func(d *driver) bool { return d.endpoint == reg.Endpoint })
	if i < 0 {
		m.mu.Unlock()
		return
	}
	d := list[i]
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(m.drivers, reg.Name)
	} else {
		m.drivers[reg.Name] = list
	}
	m.schedule(reg.Name)
	m.mu.Unlock()
	d.gone()
	klog.FromContext(ctx).Info("DRA driver plugin has gone", "driver", reg.Name, "endpoint", reg.Endpoint)
	d.close()
}

// close ends calls that are under way. Nobody may hold mu: the end of the connection is told of. Closing twice is an error of no
// consequence.
func (d *driver) close() { _ = d.conn.Close() }

// TagRPC and HandleRPC implement stats.Handler; calls are nothing to it.
func (d *driver) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC does nothing.
func (d *driver) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn adds nothing.
func (d *driver) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler: it follows whether the driver is there. A connection that ends is made again, by gRPC's own
// back-off.
func (d *driver) HandleConn(_ context.Context, s stats.ConnStats) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		d.connected = true
		m.came(d.name)
	case *stats.ConnEnd:
		d.connected = false
		m.schedule(d.name)
		m.spawn(d.conn.Connect) // not here: gRPC holds locks of the connection
	}
}

// came tells who waits that a driver has come, or its connection. The caller holds mu.
func (m *Manager) came(name string) {
	close(m.news)
	m.news = make(chan struct{})
	m.schedule(name)
}

// present says whether a driver can be spoken with. The caller holds mu.
func (m *Manager) present(name string) bool {
	return slices.ContainsFunc(m.drivers[name], func(d *driver) bool { return d.connected })
}

// driver returns the newest program of a driver, rather one that is connected, and what is closed when any driver comes. The
// error says when there is reason to ask again.
func (m *Manager) driver(name string) (*driver, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.drivers[name]
	if len(list) == 0 {
		return nil, nil, &pod.RetryError{Err: fmt.Errorf("DRA driver %s is not registered", name), Ready: m.news}
	}
	for _, d := range slices.Backward(list) {
		if d.connected {
			return d, m.news, nil
		}
	}
	return list[len(list)-1], m.news, nil
}

// answer is what drivers say of one claim.
type answer interface{ GetError() string }

// ask calls a method of a driver with claims, and returns what has failed by the UID of the claim. An error is about all of them.
func ask[A answer](ctx context.Context, m *Manager, name, method string, claims []*drapb.Claim, in any, out interface{ GetClaims() map[string]A }) (map[string]error, error) {
	d, news, err := m.driver(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	full, begin := "/"+d.service+"/"+method, time.Now()
	err = d.conn.Invoke(ctx, full, in, out, grpc.StaticMethod())
	called(name, full, begin, err)
	if err != nil {
		return nil, &pod.RetryError{Err: fmt.Errorf("%s: %w", method, err), Ready: news}
	}
	return judge(method, claims, out.GetClaims())
}

// judge reads what a driver has said: something about each claim, and about no other.
func judge[A answer](method string, claims []*drapb.Claim, said map[string]A) (map[string]error, error) {
	failed, skipped := map[string]error{}, 0
	for _, c := range claims {
		a, ok := said[c.Uid]
		if !ok {
			skipped++
		} else if text := a.GetError(); text != "" {
			failed[c.Uid] = fmt.Errorf("%s failed for ResourceClaim %s: %s", method, c.Name, text)
		}
	}
	for uid := range said {
		if !slices.ContainsFunc(claims, func(c *drapb.Claim) bool { return c.Uid == uid }) {
			return nil, fmt.Errorf("%s returned result for unknown claim UID %s", method, uid)
		}
	}
	for _, c := range claims {
		if _, ok := said[c.Uid]; !ok {
			failed[c.Uid] = fmt.Errorf("%s skipped %d ResourceClaims", method, skipped)
		}
	}
	return failed, nil
}
