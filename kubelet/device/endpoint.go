package device

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/kubelet/plugin"
)

// How long a plugin may take: to answer when it registers, and before a container starts, as with Kubernetes; and when it is asked for
// devices, for which Kubernetes has no limit.
const (
	dialTimeout     = 10 * time.Second
	allocateTimeout = 2 * time.Minute
	startTimeout    = api.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// endpoint is a plugin that has registered.
type endpoint struct {
	m                *Manager
	resource, socket string
	conn             *grpc.ClientConn
	client           api.DevicePluginClient
	options          *api.DevicePluginOptions
}

// dial connects to a plugin and asks what it wants.
func dial(ctx context.Context, m *Manager, name, socket string) (*endpoint, error) {
	conn, err := plugin.Dial(socket)
	if err != nil {
		return nil, err
	}
	e := &endpoint{m: m, resource: name, socket: socket, conn: conn, client: api.NewDevicePluginClient(conn)}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	if e.options, err = e.client.GetDevicePluginOptions(ctx, &api.Empty{}, grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxAnswer)); err != nil {
		e.close()
		return nil, e.failed("GetDevicePluginOptions", err)
	}
	return e, nil
}

// close ends calls that are under way. Closing twice is an error of no consequence.
func (e *endpoint) close() { _ = e.conn.Close() }

// failed names whom a failed call was made to.
func (e *endpoint) failed(call string, err error) error {
	return fmt.Errorf("device plugin of %s at %s: %s: %w", e.resource, e.socket, call, err)
}

// follow takes in what the plugin lists until it ends, or Run does.
func (e *endpoint) follow() {
	err := e.list()
	e.close()
	if e.m.ctx.Err() == nil {
		klog.FromContext(e.m.ctx).Info("Device plugin has gone", "resource", e.resource, "socket", e.socket, "reason", err)
	}
	e.m.left(e)
}

func (e *endpoint) list() error {
	stream, err := e.client.ListAndWatch(e.m.ctx, &api.Empty{})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if n := e.m.listed(e, r.Devices); n > 0 {
			klog.FromContext(e.m.ctx).Info("A device plugin lists devices that cannot be, or too many", "resource", e.resource, "socket", e.socket, "ignored", n, "most", maxDevices)
		}
	}
}

// listed takes in all devices that a plugin has now, and returns how many of them it does not.
func (m *Manager) listed(e *endpoint, list []*api.Device) (ignored int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[e.resource]
	if r == nil || r.plugin != e {
		return 0
	}
	had, was, now := len(r.devices), r.healthy(), map[string]instance{}
	for _, d := range list {
		if _, known := now[d.ID]; d.ID == "" || len(d.ID) > maxID || (!known && len(now) >= maxDevices) {
			ignored++
			continue
		}
		now[d.ID] = instance{healthy: d.Health == api.Healthy, nodes: nodesOf(d)}
	}
	before, anew := r.devices, !r.told
	r.devices, r.told = now, true
	if len(now) != had || r.healthy() != was {
		m.spawn(m.cfg.Counted)
	}
	m.wake(e.resource, func(id string) bool {
		a, had := before[id]
		b, has := now[id]
		return anew || had != has || a.healthy != b.healthy
	})
	return ignored
}

// nodesOf are the NUMA nodes of a device, each once.
func nodesOf(d *api.Device) (nodes []int64) {
	for _, n := range d.GetTopology().GetNodes() {
		if !slices.Contains(nodes, n.GetID()) {
			nodes = append(nodes, n.GetID())
		}
	}
	return nodes
}

// wake has the status of Pods told anew that have one of the devices. The caller holds mu.
func (m *Manager) wake(name string, changed func(id string) bool) {
	pods := map[types.UID]bool{}
	for uid, all := range m.pods {
		for _, grants := range all {
			if g := grants[name]; g != nil && slices.ContainsFunc(slices.Collect(maps.Keys(g.devices)), changed) {
				pods[uid] = true
			}
		}
	}
	for uid := range pods {
		m.spawn(func() { m.cfg.Changed(uid) }) // not here: who is told may ask
	}
}
