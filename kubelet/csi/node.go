package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/kubelet/plugin"
)

// nodeIDAnnotation has what each driver calls the node, a map in JSON.
const nodeIDAnnotation = "csi.volume.kubernetes.io/nodeid"

// writeNode says in the Node object what the driver calls the node, and where the driver reaches volumes from (topology). An empty
// ID takes the driver's off again; labels stay then, as volumes may have affinity to them.
func (p *Plugin) writeNode(ctx context.Context, driver, id string, topology map[string]string) error {
	nodes := p.cfg.Client.CoreV1().Nodes()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, p.cfg.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && id == "" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read node: %w", err)
		}
		metadata := map[string]any{}
		ids := map[string]string{}
		if text := node.Annotations[nodeIDAnnotation]; text != "" {
			if err := json.Unmarshal([]byte(text), &ids); err != nil {
				return fmt.Errorf("read annotation %s of node: %w; remove the annotation", nodeIDAnnotation, err)
			}
		}
		if ids[driver] != id {
			var value any // nil removes the annotation
			ids[driver] = id
			if id == "" {
				delete(ids, driver)
			}
			if len(ids) > 0 {
				text, err := json.Marshal(ids)
				if err != nil {
					return err
				}
				value = string(text)
			}
			metadata["annotations"] = map[string]any{nodeIDAnnotation: value}
		}
		labels := map[string]string{}
		for key, value := range topology {
			switch have, is := node.Labels[key]; {
			case is && have != value:
				return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, have)
			case !is:
				labels[key] = value
			}
		}
		if len(labels) > 0 {
			metadata["labels"] = labels
		}
		if len(metadata) == 0 {
			return nil
		}
		metadata["resourceVersion"] = node.ResourceVersion
		patch, err := json.Marshal(map[string]any{"metadata": metadata})
		if err != nil {
			return err
		}
		if _, err := nodes.Patch(ctx, p.cfg.NodeName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("write CSI driver %s into node: %w", driver, err)
		}
		return nil
	})
}

// writeCSINode lists the driver in the node's CSINode object, which is made if need be; without info it is taken off.
func (p *Plugin) writeCSINode(ctx context.Context, driver string, info *csi.NodeGetInfoResponse) error {
	objects := p.cfg.Client.StorageV1().CSINodes()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		have, err := objects.Get(ctx, p.cfg.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			if info == nil {
				return nil
			}
			have, err = p.newCSINode(ctx)
		}
		if err != nil {
			return fmt.Errorf("read CSINode: %w", err)
		}
		want := have.DeepCopy()
		want.Spec.Drivers = slices.DeleteFunc(want.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
		if info != nil {
			want.Spec.Drivers = append(want.Spec.Drivers, describe(driver, info))
		}
		if equality.Semantic.DeepEqual(have, want) {
			return nil
		}
		if _, err := objects.Update(ctx, want, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write CSI driver %s into CSINode: %w", driver, err)
		}
		return nil
	})
}

// Announce makes the node's CSINode object in the background, without drivers, unless there is one: who looks for it then knows that
// no driver is here, rather than not knowing. There is a Node by now.
func (p *Plugin) Announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawn(func() {
		plugin.Again(p.ctx, "There is no CSINode of this node, will retry", func() (<-chan struct{}, error) { return nil, p.announce(p.ctx) })
	})
}

func (p *Plugin) announce(ctx context.Context) error {
	_, err := p.cfg.Client.StorageV1().CSINodes().Get(ctx, p.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = p.newCSINode(ctx)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make CSINode: %w", err)
	}
	return nil
}

// newCSINode makes the node's object, which goes with the node.
func (p *Plugin) newCSINode(ctx context.Context) (*storagev1.CSINode, error) {
	node, err := p.cfg.Client.CoreV1().Nodes().Get(ctx, p.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return p.cfg.Client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}}}, metav1.CreateOptions{})
}

// describe is the driver's entry. No limit of volumes is zero in what drivers say, and nothing in the object.
func describe(driver string, info *csi.NodeGetInfoResponse) storagev1.CSINodeDriver {
	out := storagev1.CSINodeDriver{Name: driver, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(info.AccessibleTopology.GetSegments()))}
	if most := info.MaxVolumesPerNode; most > 0 {
		out.Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(int32(min(most, math.MaxInt32)))}
	}
	return out
}
