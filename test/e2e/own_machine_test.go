package e2e

import (
	"crypto/sha256"
	"encoding/hex"
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
)

// inventory is what an instance has on its machine that comes and goes with Pods.
type inventory struct {
	containers, interfaces, mounts, cgroups, addresses, directories []string
}

func (o *own) inventory() inventory {
	o.t.Helper()
	return inventory{
		containers: o.containers(), interfaces: o.interfaces(), mounts: o.mounts(), cgroups: o.cgroups(), addresses: o.leases(),
		directories: o.directories(),
	}
}

var containerCgroup = regexp.MustCompile(`/([0-9a-f]{64})$`)

// containers lists, once for each, the containers that have processes, and fails the test over one that has two first ones.
func (o *own) containers() []string {
	o.t.Helper()
	var found []string
	for _, pid := range o.processes() {
		b, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
		if err != nil {
			continue // It has just ended.
		}
		for line := range strings.Lines(string(b)) {
			if m := containerCgroup.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				found = append(found, m[1])
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

// processes lists the IDs of processes in this instance's cgroups.
func (o *own) processes() []string {
	o.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		o.t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err == nil && strings.Contains(string(b), "/peapod-"+o.Instance.Name+"/") {
			found = append(found, e.Name())
		}
	}
	return found
}

// interfaces lists this machine's ends of Pods' interfaces.
func (o *own) interfaces() []string {
	o.t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		o.t.Fatal(err)
	}
	var found []string
	for _, i := range list {
		if strings.HasPrefix(i.Name, "pp"+o.networkName()) {
			found = append(found, i.Name)
		}
	}
	return found
}

// networkName is what the network makes of the instance's name, short enough for interfaces.
func (o *own) networkName() string {
	sum := sha256.Sum256([]byte(o.Instance.Name))
	return hex.EncodeToString(sum[:])[:5]
}

func (o *own) mounts() []string {
	o.t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		o.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && (strings.HasPrefix(f[4], o.Instance.RunDir) || strings.HasPrefix(f[4], o.Instance.DataDir)) {
			found = append(found, f[4])
		}
	}
	slices.Sort(found)
	return found
}

func (o *own) cgroups() []string {
	o.t.Helper()
	var found []string
	for _, depth := range []string{"", "*/"} {
		for _, below := range []string{"/kubepods/pod*", "/kubepods/*/pod*", "/pods/*"} {
			dirs, err := filepath.Glob("/sys/fs/cgroup/" + depth + "peapod-" + o.Instance.Name + below)
			if err != nil {
				o.t.Fatal(err)
			}
			found = append(found, dirs...)
		}
	}
	return found
}

// leases lists Pods' addresses as the network's journal has them.
func (o *own) leases() []string {
	o.t.Helper()
	b, err := os.ReadFile(filepath.Join(o.Instance.DataDir, "network", "pods.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // No Pod has had an address.
	}
	if err != nil {
		o.t.Fatal(err)
	}
	var journal struct {
		Pods map[string]json.RawMessage `json:"pods"`
	}
	if err := json.Unmarshal(b, &journal); err != nil {
		o.t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(journal.Pods))
}

// directories lists what the node keeps for each Pod and container.
func (o *own) directories() []string {
	o.t.Helper()
	var found []string
	for _, pattern := range []string{"kubelet/pods/*", "runtime/sandboxes/*", "runtime/containers/*", "supervisor/*.json"} {
		dirs, err := filepath.Glob(filepath.Join(o.Instance.DataDir, pattern))
		if err != nil {
			o.t.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

// wantContainers waits until exactly these containers have processes, one each: those of Pods that have just gone may have some
// for a moment.
func (o *own) wantContainers(want map[string]bool) {
	o.t.Helper()
	ids := slices.Sorted(maps.Keys(want))
	o.awaitMachine("containers with a process, once for each, and number of interfaces", func() (got, wanted any) {
		return fmt.Sprint(o.containers(), len(o.interfaces())), fmt.Sprint(ids, len(ids))
	})
}

// wantInventory waits until the machine is as it was, which it may be a moment after the API says that Pods are gone.
func (o *own) wantInventory(want inventory) {
	o.t.Helper()
	o.awaitMachine("what is on the machine", func() (got, wanted any) {
		return fmt.Sprintf("%+v", o.inventory()), fmt.Sprintf("%+v", want)
	})
}

// awaitMachine waits until both are equal. It looks again whenever the node notes a change of what it has, and now and then:
// the kernel announces neither the end of another's process nor that of a mount or cgroup.
func (o *own) awaitMachine(what string, compare func() (got, wanted any)) {
	o.t.Helper()
	changes, err := fsnotify.NewWatcher()
	if err != nil {
		o.t.Fatal(err)
	}
	defer changes.Close()
	for _, dir := range []string{"network", "kubelet/pods", "runtime/sandboxes", "runtime/containers", "supervisor"} {
		if err := changes.Add(filepath.Join(o.Instance.DataDir, dir)); err != nil {
			o.t.Fatal(err)
		}
	}
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	ctx := within(o.t, patience)
	for {
		got, want := compare()
		if got == want {
			return
		}
		select {
		case <-changes.Events:
		case <-again.C:
		case err := <-changes.Errors:
			o.t.Fatal(err)
		case <-ctx.Done():
			o.t.Errorf("%s: there is\n%v\nand should be\n%v", what, got, want)
			return
		}
	}
}
