// Package driver is a small driver of devices for tests (dynamic resource allocation), made with the library that real ones are made
// with. Its devices are all /dev/zero. What it has prepared it keeps where the container runtime looks for that, in files of the
// Container Device Interface: one for each claim.
package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"tags.cncf.io/container-device-interface/specs-go"
)

// Config says what the driver is.
type Config struct {
	Name, Node string
	Client     kubernetes.Interface
	// Kubelet is the kubelet's directory, CDI one that the container runtime reads.
	Kubelet, CDI string
	// Devices is how many the node has; they are named device-0 and so on.
	Devices int
	// Pod is the UID of the driver's own, where another may be there at the same time.
	Pod types.UID
	// Options are more of the library's.
	Options []kubeletplugin.Option
	// Before, if not nil, is called before a claim is prepared or unprepared; its error is the answer.
	Before func(ctx context.Context, what string, claim types.UID) error
	// Health, if not nil, is what is told of the devices' health.
	Health <-chan kubeletplugin.DeviceHealthReport
	// Failed is told of what fails in the background.
	Failed func(error)
}

// Driver is the driver's part on a node.
type Driver struct {
	cfg    Config
	helper *kubeletplugin.Helper
}

// Start registers the driver with the kubelet, and tells of its devices if there are any, until Stop.
func Start(ctx context.Context, cfg Config) (*Driver, error) {
	d := &Driver{cfg: cfg}
	own := filepath.Join(cfg.Kubelet, "plugins", cfg.Name)
	registry := filepath.Join(cfg.Kubelet, "plugins_registry")
	for _, dir := range []string{own, registry, cfg.CDI} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
	}
	var err error
	d.helper, err = kubeletplugin.Start(ctx, d, append(cfg.Options, kubeletplugin.DriverName(cfg.Name), kubeletplugin.NodeName(cfg.Node), kubeletplugin.KubeClient(cfg.Client),
		kubeletplugin.RegistrarDirectoryPath(registry), kubeletplugin.PluginDataDirectoryPath(own), kubeletplugin.RollingUpdate(cfg.Pod))...)
	if err != nil || cfg.Devices == 0 {
		return d, err
	}
	slice := resourceslice.Slice{}
	for i := range cfg.Devices {
		slice.Devices = append(slice.Devices, resourcev1.Device{Name: fmt.Sprintf("device-%d", i)})
	}
	return d, d.helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{cfg.Node: {Slices: []resourceslice.Slice{slice}}}})
}

// Stop takes the driver from the node; what it has prepared stays.
func (d *Driver) Stop() { d.helper.Stop() }

// file has what is prepared of a claim.
func (d *Driver) file(claim types.UID) string {
	return filepath.Join(d.cfg.CDI, d.cfg.Name+"-"+string(claim)+".json")
}

// Prepared are the UIDs of the claims that are prepared.
func (d *Driver) Prepared() (list []string, err error) {
	files, err := filepath.Glob(d.file("*"))
	for _, f := range files {
		list = append(list, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), d.cfg.Name+"-"), ".json"))
	}
	return list, err
}

func (d *Driver) before(ctx context.Context, what string, claim types.UID) error {
	if d.cfg.Before == nil {
		return nil
	}
	return d.cfg.Before(ctx, what, claim)
}

// PrepareResourceClaims implements kubeletplugin.DRAPlugin.
func (d *Driver) PrepareResourceClaims(ctx context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		devices, err := d.prepare(ctx, c)
		out[c.UID] = kubeletplugin.PrepareResult{Err: err, Devices: devices}
	}
	return out, nil
}

// prepare makes a name of each device of a claim known to the container runtime, with variable DEVICE_N (its number), which says for
// which request it is, and node /dev/claimed-N.
func (d *Driver) prepare(ctx context.Context, c *resourcev1.ResourceClaim) (list []kubeletplugin.Device, err error) {
	if err := d.before(ctx, "prepare", c.UID); err != nil {
		return nil, err
	}
	spec := specs.Spec{Version: "0.6.0", Kind: d.cfg.Name + "/device"}
	for _, r := range c.Status.Allocation.Devices.Results {
		if r.Driver != d.cfg.Name {
			continue
		}
		number := strings.TrimPrefix(r.Device, "device-")
		name := string(c.UID) + "-" + number
		spec.Devices = append(spec.Devices, specs.Device{Name: name, ContainerEdits: specs.ContainerEdits{
			Env:         []string{"DEVICE_" + number + "=" + r.Request},
			DeviceNodes: []*specs.DeviceNode{{Path: "/dev/claimed-" + number, HostPath: "/dev/zero"}},
		}})
		list = append(list, kubeletplugin.Device{Requests: []string{r.Request}, PoolName: r.Pool, DeviceName: r.Device, CDIDeviceIDs: []string{spec.Kind + "=" + name}})
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	unfinished := d.file(c.UID) + ".new"
	if err := os.WriteFile(unfinished, body, 0o644); err != nil {
		return nil, err
	}
	return list, os.Rename(unfinished, d.file(c.UID))
}

// UnprepareResourceClaims implements kubeletplugin.DRAPlugin.
func (d *Driver) UnprepareResourceClaims(ctx context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, c := range claims {
		err := d.before(ctx, "unprepare", c.UID)
		if err == nil {
			if err = os.Remove(d.file(c.UID)); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		out[c.UID] = err
	}
	return out, nil
}

// HandleError implements kubeletplugin.DRAPlugin.
func (d *Driver) HandleError(_ context.Context, err error, msg string) {
	if d.cfg.Failed != nil {
		d.cfg.Failed(fmt.Errorf("%s: %w", msg, err))
	}
}

// WatchHealthStatus implements kubeletplugin.DRAPlugin.
func (d *Driver) WatchHealthStatus(ctx context.Context, reports chan<- kubeletplugin.DeviceHealthReport) error {
	if d.cfg.Health == nil {
		return kubeletplugin.ErrHealthNotSupported
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-d.cfg.Health:
			select {
			case reports <- r:
			case <-ctx.Done():
				return nil
			}
		}
	}
}
