package csi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/internal/turn"
)

// recordFile is named as Kubernetes' kubelet names it: there are drivers that read it.
const recordFile = "vol_data.json"

// record is what a driver was asked to do with a volume. All values are strings, as in Kubernetes' kubelet's.
type record struct {
	SpecName   string `json:"specVolID,omitempty"`
	Handle     string `json:"volumeHandle"`
	Driver     string `json:"driverName"`
	Node       string `json:"nodeName,omitempty"`
	Attachment string `json:"attachmentID,omitempty"`
	Lifecycle  string `json:"volumeLifecycleMode,omitempty"`
	// Attach and Republish are "true" for a volume that must be attached, and for one that is published again and again.
	Attach    string `json:"attach,omitempty"`
	Republish string `json:"requiresRepublish,omitempty"`
	// Boot is that in which the driver has finished; empty while it may be at work.
	Boot string `json:"bootID,omitempty"`
}

const yes = "true"

func flag(b bool) string {
	if b {
		return yes
	}
	return ""
}

func (r *record) persistent() bool { return r.Lifecycle != string(storagev1.VolumeLifecycleEphemeral) }

// place is where something is published or staged, and where the record of that is.
type place struct {
	// path is the driver's to make; its parent is there.
	path string
	// dir holds the record.
	dir string
}

func (p place) save(r *record) error {
	for _, dir := range []string{p.dir, filepath.Dir(p.path)} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make directory of volume: %w", err)
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(p.dir, recordFile), body, 0o600); err != nil {
		return fmt.Errorf("save volume data: %w", err)
	}
	return nil
}

// clear removes the place and its record. What is in it is the volume's, and stays: that is an error.
func (p place) clear() error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is left by the driver: %w", p.path, err)
	}
	if err := os.Remove(filepath.Join(p.dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume data: %w", err)
	}
	// Whoever else has something in these directories keeps them.
	for _, dir := range []string{filepath.Dir(p.path), p.dir, filepath.Dir(p.dir)} {
		_ = os.Remove(dir)
	}
	return nil
}

func load(dir string) (*record, error) {
	path := filepath.Join(dir, recordFile)
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("read volume data %s: %w", path, err)
	}
	if r.Driver == "" || r.Handle == "" {
		return nil, fmt.Errorf("read volume data %s: it names no driver or volume", path)
	}
	return r, nil
}

// Directories below a Pod's, and the plugin's own.
const (
	fileSystems = "volumes"
	devices     = "volumeDevices"
	escaped     = "kubernetes.io~csi"
)

func (p *Plugin) ownDir() string { return filepath.Join(p.cfg.RootDir, "plugins", csiname.Plugin) }

// published is where a volume of a Pod is.
func (p *Plugin) published(key mountKey, block bool) place {
	pod := filepath.Join(p.cfg.RootDir, "pods", string(key.uid))
	if block {
		return place{filepath.Join(p.ownDir(), devices, "publish", key.name, string(key.uid)), filepath.Join(pod, devices, escaped, key.name)}
	}
	dir := filepath.Join(pod, fileSystems, escaped, key.name)
	return place{filepath.Join(dir, "mount"), dir}
}

// staged is where a persistent volume is on the node.
func (p *Plugin) staged(r *record, block bool) place {
	if block {
		return place{filepath.Join(p.ownDir(), devices, "staging", r.SpecName), filepath.Join(p.ownDir(), devices, r.SpecName, "data")}
	}
	dir := filepath.Join(p.ownDir(), r.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(r.Handle))))
	return place{filepath.Join(dir, "globalmount"), dir}
}

// restore takes up what the records say. It costs a look into each Pod's directory.
func (p *Plugin) restore() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pods, err := names(filepath.Join(p.cfg.RootDir, "pods"))
	if err != nil {
		return err
	}
	for _, uid := range pods {
		for _, kind := range []string{fileSystems, devices} {
			volumes, err := names(filepath.Join(p.cfg.RootDir, "pods", uid, kind, escaped))
			if err != nil {
				return err
			}
			for _, name := range volumes {
				p.restorePublished(mountKey{types.UID(uid), name}, kind == devices)
			}
		}
	}
	drivers, err := names(p.ownDir())
	if err != nil {
		return err
	}
	for _, driver := range drivers {
		volumes, err := names(filepath.Join(p.ownDir(), driver))
		if err != nil {
			return err
		}
		for _, name := range volumes {
			dir, block := filepath.Join(p.ownDir(), driver, name), false
			if driver == devices {
				dir, block = filepath.Join(dir, "data"), true
			}
			p.restoreStaged(dir, block)
		}
	}
	for name, s := range p.volumes {
		p.letGo(name, s)
	}
	return nil
}

func (p *Plugin) restorePublished(key mountKey, block bool) {
	r := p.restored(p.published(key, block).dir)
	if r == nil {
		return
	}
	m := &mounting{key: key, record: r, block: block, cancel: func() {}, done: make(chan struct{}), told: true, turn: turn.New()}
	close(m.done)
	m.result = Published{Path: p.published(key, block).path, Block: block}
	if r.Boot != p.boot {
		m.err = errors.New("publishing the volume was not finished")
	} else {
		m.err = check(m.result)
	}
	p.mounts[key] = m
	if r.persistent() {
		p.use(m, r.Driver, r.Handle, r.Attach == yes)
	}
}

func (p *Plugin) restoreStaged(dir string, block bool) {
	if r := p.restored(dir); r != nil {
		s := p.sharedOf(r.Driver, r.Handle)
		s.staged, s.block = r, block
		s.attach = s.attach || r.Attach == yes
	}
}

// restored is load for one that may not be there. One that cannot be read is of no use to anybody.
func (p *Plugin) restored(dir string) *record {
	r, err := load(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(p.ctx).Error(err, "A volume that an earlier process mounted is not known any more")
	}
	return r
}

// names lists a directory, which may not be there.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out, nil
}
