package csi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/plugin"
)

// Plugin is the handler of plugins of type CSIPlugin.
var _ plugin.Handler = (*Plugin)(nil)

// maxDriverName is Kubernetes' bound.
const maxDriverName = 63

// highestVersion returns the newest version of the interface that the driver speaks and this kubelet does: 1.x are compatible with
// one another, and 0.x is long gone.
func highestVersion(versions []string) (*version.Version, error) {
	var highest *version.Version
	for _, text := range versions {
		v, err := version.ParseGeneric(text)
		if err == nil && v.Major() == 1 && (highest == nil || highest.LessThan(v)) {
			highest = v
		}
	}
	if highest == nil {
		return nil, fmt.Errorf("none of the versions specified %q are supported: version 1.x is", versions)
	}
	return highest, nil
}

// Register implements plugin.Handler: the driver is asked about the node, and CSINode and Node then say that it is there.
func (p *Plugin) Register(ctx context.Context, reg plugin.Plugin) error {
	if len(reg.Name) > maxDriverName || len(validation.IsDNS1123Subdomain(strings.ToLower(reg.Name))) > 0 {
		return fmt.Errorf("%q is no name of a CSI driver: it must be a DNS name of at most %d characters", reg.Name, maxDriverName)
	}
	highest, err := highestVersion(reg.Versions)
	if err != nil {
		return fmt.Errorf("validation failed for CSI Driver %s at endpoint %s: %w", reg.Name, reg.Endpoint, err)
	}
	conn, err := plugin.Dial(reg.Endpoint, grpc.WithUnaryInterceptor(p.cfg.Metrics.CSICalls(reg.Name)))
	if err != nil {
		return err
	}
	d := &driver{name: reg.Name, endpoint: reg.Endpoint, version: highest, conn: conn, client: csi.NewNodeClient(conn)}
	if err := p.enter(d); err != nil {
		d.close()
		return err
	}
	if err := p.install(ctx, d); err != nil {
		p.leave(d)
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d.ready = true
	p.driversChanged()
	return nil
}

// enter makes the driver the one of its name, unless there is one that speaks a version at least as high.
func (p *Plugin) enter(d *driver) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.drivers[d.name]; other != nil {
		if !other.version.LessThan(d.version) {
			return fmt.Errorf("CSI driver %q failed. Another driver with the same name is already registered with a higher supported version: %q", d.name, other.version)
		}
		other.close()
	}
	p.drivers[d.name] = d
	return nil
}

// leave forgets the driver and says whether it was the one of its name.
func (p *Plugin) leave(d *driver) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.close()
	if p.drivers[d.name] != d {
		return false
	}
	delete(p.drivers, d.name)
	p.driversChanged()
	return true
}

// driversChanged wakes who waits for a driver. The caller holds mu.
func (p *Plugin) driversChanged() {
	close(p.driverNews)
	p.driverNews = make(chan struct{})
}

// Deregister implements plugin.Handler.
func (p *Plugin) Deregister(ctx context.Context, reg plugin.Plugin) {
	p.mu.Lock()
	d := p.drivers[reg.Name]
	p.mu.Unlock()
	if d == nil || d.endpoint != reg.Endpoint || !p.leave(d) {
		return
	}
	klog.FromContext(ctx).Info("CSI driver has gone", "driver", reg.Name)
	plugin.Again(ctx, "CSI driver is not taken from the node's objects, will retry", func() (<-chan struct{}, error) {
		return nil, p.uninstall(ctx, d)
	}, "driver", reg.Name)
}

// install asks the driver what it calls this node and writes that.
func (p *Plugin) install(ctx context.Context, d *driver) error {
	calling, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := d.client.NodeGetInfo(calling, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("ask CSI driver %s about the node: %w", d.name, err)
	}
	if info.NodeId == "" {
		return fmt.Errorf("CSI driver %s says nothing of what it calls this node: its NodeGetInfo must return a node_id", d.name)
	}
	p.installing.Lock()
	defer p.installing.Unlock()
	if err := p.writeNode(ctx, d.name, info.NodeId, info.AccessibleTopology.GetSegments()); err != nil {
		return err
	}
	return p.writeCSINode(ctx, d.name, info)
}

// uninstall takes the driver from CSINode and Node, unless another of its name has come meanwhile.
func (p *Plugin) uninstall(ctx context.Context, d *driver) error {
	p.installing.Lock()
	defer p.installing.Unlock()
	p.mu.Lock()
	replaced := p.drivers[d.name] != nil
	p.mu.Unlock()
	if replaced {
		return nil
	}
	return errors.Join(p.writeCSINode(ctx, d.name, nil), p.writeNode(ctx, d.name, "", nil))
}

// NodeChanged tells of the newest Node object. One that was made anew is told of the drivers again.
func (p *Plugin) NodeChanged(node *v1.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.node
	if old != nil && old.UID == node.UID {
		// What was written is known before the watch tells of it, which then would be a step back.
		order, err := resourceversion.CompareResourceVersion(node.ResourceVersion, old.ResourceVersion)
		if err == nil && order < 0 {
			return
		}
	}
	p.node = node
	close(p.nodeNews)
	p.nodeNews = make(chan struct{})
	if old == nil || old.UID == node.UID {
		return
	}
	for _, d := range p.drivers {
		p.spawn(func() {
			if err := p.install(p.ctx, d); err != nil && p.ctx.Err() == nil {
				klog.FromContext(p.ctx).Error(err, "CSI driver is missing in the node's new objects; it is written when it registers again", "driver", d.name)
			}
		})
	}
}

// driver returns one that is registered, or an error and what is closed when the drivers change.
func (p *Plugin) driver(name string) (*driver, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.drivers[name]; d != nil && d.ready {
		return d, nil, nil
	}
	return nil, p.driverNews, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}
