package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/peapod/peapod/daemon/instance"
)

// Place is where an instance runs: the machine as its process sees it.
type Place struct {
	Instance instance.Instance
	// MountInfo is the file that lists the mounts that the instance sees. Interfaces are looked up in the network namespace
	// of the thread that asks.
	MountInfo string
}

// Place is this machine.
func (c *Cluster) Place() Place { return Place{c.Instance, "/proc/self/mountinfo"} }

// Inventory is what an instance has on its machine that comes and goes with Pods.
type Inventory struct {
	Containers, Interfaces, Mounts, Cgroups, Addresses, Directories []string
}

// Inventory lists what there is now.
func (p Place) Inventory() (i Inventory, err error) {
	for _, part := range []struct {
		list *[]string
		look func() ([]string, error)
	}{
		{&i.Containers, p.Containers}, {&i.Interfaces, p.Interfaces}, {&i.Mounts, p.mounts}, {&i.Cgroups, p.cgroups},
		{&i.Addresses, p.leases}, {&i.Directories, p.directories},
	} {
		if *part.list, err = part.look(); err != nil {
			return i, fmt.Errorf("look what instance %s has: %w", p.Instance.Name, err)
		}
	}
	return i, nil
}

var containerCgroup = regexp.MustCompile(`/([0-9a-f]{64})$`)

// Containers lists the containers that have processes, once for each process.
func (p Place) Containers() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err != nil || !strings.Contains(string(b), "/peapod-"+p.Instance.Name+"/") {
			continue // Somebody else's, or it has just ended.
		}
		for line := range strings.Lines(string(b)) {
			if m := containerCgroup.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				found = append(found, m[1])
				break
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// Interfaces lists this machine's ends of Pods' interfaces, and the overlay's.
func (p Place) Interfaces() ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, i := range list {
		if strings.HasPrefix(i.Name, "pp"+p.NetworkName()) {
			found = append(found, i.Name)
		}
	}
	return found, nil
}

func (p Place) mounts() ([]string, error) {
	b, err := os.ReadFile(p.MountInfo)
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && (strings.HasPrefix(f[4], p.Instance.RunDir) || strings.HasPrefix(f[4], p.Instance.DataDir)) {
			found = append(found, f[4])
		}
	}
	slices.Sort(found)
	return found, nil
}

func (p Place) cgroups() ([]string, error) {
	var patterns []string
	for _, depth := range []string{"", "*/"} {
		for _, below := range []string{"/kubepods/pod*", "/kubepods/*/pod*", "/pods/*"} {
			patterns = append(patterns, "/sys/fs/cgroup/"+depth+"peapod-"+p.Instance.Name+below)
		}
	}
	return globs(patterns...)
}

// leases lists Pods' addresses as the network's journal has them.
func (p Place) leases() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(p.Instance.DataDir, "network", "pods.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // No Pod has had an address.
	}
	if err != nil {
		return nil, err
	}
	var journal struct {
		Pods map[string]json.RawMessage `json:"pods"`
	}
	if err := json.Unmarshal(b, &journal); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(journal.Pods)), nil
}

// directories lists what the node keeps for each Pod and container.
func (p Place) directories() ([]string, error) {
	var patterns []string
	for _, below := range []string{"kubelet/pods/*", "kubelet/userns/*", "runtime/sandboxes/*", "runtime/containers/*", "supervisor/*.json"} {
		patterns = append(patterns, filepath.Join(p.Instance.DataDir, below))
	}
	return globs(patterns...)
}

func globs(patterns ...string) ([]string, error) {
	var found []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		found = append(found, files...)
	}
	return found, nil
}

// NetworkName is what the network makes of the instance's name, short enough for interfaces.
func (p Place) NetworkName() string { return networkName(p.Instance) }

// Tables are the names of the instance's nftables tables: that of Pods and that of Services.
func (p Place) Tables() (pods, services string) {
	return "peapod_" + p.NetworkName(), "peapod_" + p.Instance.Name + "_services"
}

// Await waits until compare gives two equal texts. It looks again whenever the node notes a change of what it has, and now and
// then: the kernel announces neither the end of another's process nor that of a mount or cgroup.
func (p Place) Await(ctx context.Context, compare func() (got, want string, err error)) error {
	changes, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer changes.Close()
	for _, dir := range []string{"network", "kubelet/pods", "runtime/sandboxes", "runtime/containers", "supervisor"} {
		if err := changes.Add(filepath.Join(p.Instance.DataDir, dir)); err != nil {
			return err
		}
	}
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		got, want, err := compare()
		if err != nil || got == want {
			return err
		}
		select {
		case <-changes.Events:
		case <-again.C:
		case err := <-changes.Errors:
			return err
		case <-ctx.Done():
			return fmt.Errorf("there is\n%v\nand should be\n%v", got, want)
		}
	}
}
