package dra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/atomicfile"
)

// record is what the node has of a claim. It is a file, named by the claim's UID.
type record struct {
	Namespace string    `json:"namespace"`
	Claim     string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Pods are those of this node that the claim is, or is to be, prepared for.
	Pods []types.UID `json:"pods"`
	// Drivers are all that have devices in the claim's allocation, with what they have prepared.
	Drivers map[string][]device `json:"drivers"`
}

// device is one that a driver has prepared.
type device struct {
	Pool  string `json:"pool"`
	Name  string `json:"device"`
	Share string `json:"shareID,omitempty"`
	// Requests are those of the claim that the device is for; empty for all.
	Requests []string `json:"requests,omitempty"`
	// CDI are the names by which the container runtime is asked for it.
	CDI []string `json:"cdiDevices,omitempty"`
}

func (r *record) name() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Claim}
}

// with is r with a Pod more, without with one less.
func (r *record) with(uid types.UID) *record {
	if slices.Contains(r.Pods, uid) {
		return r
	}
	n := *r
	n.Pods = append(slices.Clone(r.Pods), uid)
	return &n
}

func (r *record) without(uid types.UID) *record {
	n := *r
	n.Pods = slices.DeleteFunc(slices.Clone(r.Pods), func(u types.UID) bool { return u == uid })
	return &n
}

// prepared is r with what a driver has prepared.
func (r *record) prepared(driver string, devices []device) *record {
	n := *r
	n.Drivers = maps.Clone(r.Drivers)
	n.Drivers[driver] = devices
	return &n
}

func (r *record) equal(o *record) bool { return r == o || o != nil && reflect.DeepEqual(r, o) }

// save writes the file; it outlives the process and the machine.
func (r *record) save(dir string) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save ResourceClaim %s: %w", r.Claim, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, string(r.UID)), body, 0o600); err != nil {
		return fmt.Errorf("save ResourceClaim %s: %w", r.Claim, err)
	}
	return nil
}

// remove deletes the file, and the directory with the last one. Idempotent.
func (r *record) remove(dir string) error {
	if err := os.Remove(filepath.Join(dir, string(r.UID))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget ResourceClaim %s: %w", r.Claim, err)
	}
	_ = os.Remove(dir) // others keep it
	return nil
}

// dir has the files of all claims.
func (m *Manager) dir() string { return filepath.Join(m.cfg.RootDir, "claims") }

// readAll reads the files of all claims. One that cannot be read is of no use to anybody: it stays, and is told of.
func readAll(ctx context.Context, dir string) ([]*record, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list prepared claims: %w", err)
	}
	var list []*record
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			continue // unfinished
		}
		r, err := read(filepath.Join(dir, f.Name()))
		if err != nil {
			klog.FromContext(ctx).Error(err, "A claim that an earlier process had prepared is not known any more; drain the node and remove the file")
			continue
		}
		list = append(list, r)
	}
	return list, nil
}

func read(path string) (*record, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read prepared claim: %w", err)
	}
	r := &record{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("read prepared claim %s: %w", path, err)
	}
	if r.Claim == "" || r.Namespace == "" || string(r.UID) != filepath.Base(path) {
		return nil, fmt.Errorf("read prepared claim %s: it says nothing, or is another claim's", path)
	}
	if r.Drivers == nil {
		r.Drivers = map[string][]device{}
	}
	return r, nil
}
