package device

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/kubelet/plugin"
)

// A Manager is served as v1beta1.Registration, at its own socket, and takes plugins of type DevicePlugin from the kubelet's directory.
var (
	_ api.RegistrationServer = (*Manager)(nil)
	_ plugin.Handler         = registry{}
)

// Register is called by plugins that are about to serve at a socket in the directory, or do already.
func (m *Manager) Register(ctx context.Context, r *api.RegisterRequest) (*api.Empty, error) {
	err := m.registerAt(ctx, r)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Bad registration request from device plugin", "resource", r.ResourceName, "endpoint", r.Endpoint)
	}
	return &api.Empty{}, err
}

func (m *Manager) registerAt(ctx context.Context, r *api.RegisterRequest) error {
	if e := r.Endpoint; e == "" || e == "." || e == ".." || filepath.Base(e) != e || e == "kubelet.sock" || e == checkpointName {
		return fmt.Errorf("register device plugin of %q: endpoint %q must be the name of the plugin's socket in %s, without a directory", r.ResourceName, e, m.dir())
	}
	if !supported(r.Version) {
		return fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", r.Version, api.SupportedVersions)
	}
	return m.register(ctx, r.ResourceName, filepath.Join(m.dir(), r.Endpoint))
}

func supported(version string) bool { return slices.Contains(api.SupportedVersions[:], version) }

// register takes a plugin into use.
func (m *Manager) register(ctx context.Context, name, socket string) error {
	if !m.cfg.Extended(v1.ResourceName(name)) {
		return fmt.Errorf("the ResourceName %q is invalid", name)
	}
	m.cfg.Metrics.DevicePluginRegistered(name)
	e, err := dial(ctx, m, name, socket)
	if err != nil {
		return err
	}
	if err := m.enter(e); err != nil {
		e.close()
		return err
	}
	return nil
}

// enter makes a plugin that of its resource, in the place of another if there is one.
func (m *Manager) enter(e *endpoint) error {
	m.load()
	m.mu.Lock()
	if m.ctx.Err() != nil {
		m.mu.Unlock()
		return errors.New("the kubelet stops")
	}
	r := m.resources[e.resource]
	if r == nil {
		if len(m.resources) >= maxResources {
			m.mu.Unlock()
			return fmt.Errorf("register device plugin of %s at %s: %d resources have a plugin already, and no more may", e.resource, e.socket, maxResources)
		}
		r = &resourced{}
		m.resources[e.resource], m.dirty = r, true
		delete(m.removed, e.resource)
	}
	if r.gone != nil {
		r.gone.Stop()
		r.gone = nil
	}
	before := r.plugin
	r.plugin = e
	if r.preStart != e.options.GetPreStartRequired() {
		r.preStart, m.dirty = !r.preStart, true
	}
	close(m.news)
	m.news = make(chan struct{})
	m.spawn(e.follow)
	m.mu.Unlock()
	if before != nil {
		before.close()
	}
	m.remember()
	klog.FromContext(m.ctx).Info("Device plugin registered", "resource", e.resource, "socket", e.socket)
	return nil
}

// left takes in that a plugin cannot be spoken with any more; nothing if another has taken over.
func (m *Manager) left(e *endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[e.resource]
	if r == nil || r.plugin != e || m.ctx.Err() != nil {
		return
	}
	r.plugin, r.told = nil, false
	for id, d := range r.devices {
		d.healthy = false
		r.devices[id] = d
	}
	m.expect(e.resource, r)
	m.wake(e.resource, func(string) bool { return true })
	m.spawn(m.cfg.Counted)
}

// Registry handles plugins of type DevicePlugin, whose name is their resource's.
func (m *Manager) Registry() plugin.Handler { return registry{m} }

type registry struct{ m *Manager }

// Register implements plugin.Handler.
func (g registry) Register(ctx context.Context, p plugin.Plugin) error {
	if !slices.ContainsFunc(p.Versions, supported) {
		return fmt.Errorf("manager version, %s, is not among plugin supported versions %v", api.Version, p.Versions)
	}
	return g.m.register(ctx, p.Name, p.Endpoint)
}

// Deregister implements plugin.Handler.
func (g registry) Deregister(_ context.Context, p plugin.Plugin) {
	g.m.mu.Lock()
	var e *endpoint
	if r := g.m.resources[p.Name]; r != nil && r.plugin != nil && r.plugin.socket == p.Endpoint {
		e = r.plugin
	}
	g.m.mu.Unlock()
	if e != nil {
		e.close() // which ends its list
	}
}
