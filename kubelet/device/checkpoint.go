package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/internal/atomicfile"
)

// checkpointName is upstream's, and so are the names and the meaning of what is in PodDeviceEntries: programs of the node read them.
const checkpointName = "kubelet_internal_checkpoint"

// checkpoint is the file.
type checkpoint struct {
	Data json.RawMessage
	// Checksum is the CRC-32 (IEEE) of Data.
	Checksum uint32
}

type checkpointData struct {
	PodDeviceEntries []podDevices
	// Resources had a plugin.
	Resources map[string]knownResource
}

// podDevices is one grant.
type podDevices struct {
	PodUID, ContainerName, ResourceName string
	// DeviceIDs are by NUMA node; -1 has those without.
	DeviceIDs map[int64][]string
	// AllocResp is the plugin's answer in protobuf.
	AllocResp []byte
}

type knownResource struct {
	PreStartRequired bool
}

const noNode = -1

func (m *Manager) checkpoint() string { return filepath.Join(m.dir(), checkpointName) }

// save writes down who has what, if that has changed. It outlives the process and the machine.
func (m *Manager) save() (err error) {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	if !m.dirty {
		m.mu.Unlock()
		return nil
	}
	m.dirty = false
	data, err := m.data()
	m.mu.Unlock()
	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("save devices of pods: %w", err)
		m.mu.Lock()
		m.dirty = true
		m.mu.Unlock()
	}()
	if err != nil {
		return err
	}
	body, err := json.Marshal(checkpoint{Data: data, Checksum: crc32.ChecksumIEEE(data)})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir(), 0o750); err != nil {
		return err
	}
	return atomicfile.Write(m.checkpoint(), body, 0o600)
}

// data is what the checkpoint has; the caller holds mu. Grants that a plugin is still asked about are nobody's after a crash.
func (m *Manager) data() ([]byte, error) {
	d := checkpointData{PodDeviceEntries: []podDevices{}, Resources: map[string]knownResource{}}
	for name, r := range m.resources {
		d.Resources[name] = knownResource{PreStartRequired: r.preStart}
	}
	for uid, all := range m.pods {
		for container, grants := range all {
			for name, g := range grants {
				if g.answer == nil {
					continue
				}
				answer, err := proto.Marshal(g.answer)
				if err != nil {
					return nil, err
				}
				e := podDevices{PodUID: string(uid), ContainerName: container, ResourceName: name, DeviceIDs: map[int64][]string{}, AllocResp: answer}
				for _, id := range sortedIDs(g.devices) {
					for _, node := range orNone(g.devices[id]) {
						e.DeviceIDs[node] = append(e.DeviceIDs[node], id)
					}
				}
				d.PodDeviceEntries = append(d.PodDeviceEntries, e)
			}
		}
	}
	return json.Marshal(d)
}

func orNone(nodes []int64) []int64 {
	if len(nodes) == 0 {
		return []int64{noNode}
	}
	return nodes
}

// load takes over what an earlier process has left, once. The resources that it had have no devices before their plugins are back.
func (m *Manager) load() {
	m.loading.Do(func() {
		d, err := readCheckpoint(m.checkpoint())
		if err != nil {
			klog.FromContext(m.ctx).Error(err, "Which pod has which device is not known any more, and may be given twice; drain the node, or restart the pods that have devices")
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for name, r := range d.Resources {
			m.resources[name] = &resourced{preStart: r.PreStartRequired}
			m.expect(name, m.resources[name])
		}
		for _, e := range d.PodDeviceEntries {
			g := &grant{devices: map[string][]int64{}, answer: &api.ContainerAllocateResponse{}}
			if err := proto.Unmarshal(e.AllocResp, g.answer); err != nil {
				klog.FromContext(m.ctx).Error(err, "What a container needs for its devices is not known any more", "podUID", e.PodUID, "container", e.ContainerName, "resource", e.ResourceName)
				continue
			}
			for node, ids := range e.DeviceIDs {
				for _, id := range ids {
					if node != noNode {
						g.devices[id] = append(g.devices[id], node)
					} else if g.devices[id] == nil {
						g.devices[id] = nil
					}
				}
			}
			m.put(types.UID(e.PodUID), e.ContainerName, e.ResourceName, g)
		}
		m.dirty = false
	})
}

// put writes a grant into the memory. The caller holds mu.
func (m *Manager) put(uid types.UID, container, name string, g *grant) {
	if m.pods[uid] == nil {
		m.pods[uid] = containers{}
	}
	if m.pods[uid][container] == nil {
		m.pods[uid][container] = map[string]*grant{}
	}
	m.pods[uid][container][name] = g
	m.dirty = true
}

func readCheckpoint(path string) (*checkpointData, error) {
	d := &checkpointData{}
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read devices of pods: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("read devices of pods in %s: %w", path, err)
	}
	if sum := crc32.ChecksumIEEE(c.Data); sum != c.Checksum {
		return nil, fmt.Errorf("read devices of pods in %s: its checksum is %d, and should be %d", path, sum, c.Checksum)
	}
	if err := json.Unmarshal(c.Data, d); err != nil {
		return nil, fmt.Errorf("read devices of pods in %s: %w", path, err)
	}
	return d, nil
}

// expect gives a resource whose plugin has gone the time for another. The caller holds mu.
func (m *Manager) expect(name string, r *resourced) {
	if m.ctx.Err() != nil {
		return
	}
	var own *time.Timer
	own = time.AfterFunc(m.grace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if r.gone != own {
			return
		}
		delete(m.resources, name)
		m.removed[name], m.dirty = true, true
		m.spawn(func() {
			m.cfg.Counted()
			m.remember()
		})
	})
	r.gone = own
}

// remember saves where nobody waits for it: what fails is tried again with the next change.
func (m *Manager) remember() {
	if err := m.save(); err != nil {
		klog.FromContext(m.ctx).Error(err, "Device plugins are not remembered over a restart")
	}
}
