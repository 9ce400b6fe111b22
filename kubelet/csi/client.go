package csi

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// driver is one that is registered on the node.
type driver struct {
	name, endpoint string
	version        *version.Version
	conn           *grpc.ClientConn
	client         csi.NodeClient
	// ready says that CSINode has it; guarded by the Plugin's mu.
	ready bool

	mu           sync.Mutex
	capabilities []csi.NodeServiceCapability_RPC_Type
	asked        bool
}

// close ends calls that are under way. Closing twice is an error of no consequence.
func (d *driver) close() { _ = d.conn.Close() }

// can says whether the driver has the capability. It is asked once.
func (d *driver) can(ctx context.Context, what csi.NodeServiceCapability_RPC_Type) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asked {
		resp, err := d.client.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
		if err != nil {
			return false, fmt.Errorf("ask CSI driver %s for its capabilities: %w", d.name, err)
		}
		for _, c := range resp.GetCapabilities() {
			d.capabilities = append(d.capabilities, c.GetRpc().GetType())
		}
		d.asked = true
	}
	return slices.Contains(d.capabilities, what), nil
}

// capability says how the volume is to be used. A driver that tells apart one Pod and several of a node is told which.
func (d *driver) capability(ctx context.Context, v *Volume, group string) (*csi.VolumeCapability, error) {
	several, err := d.can(ctx, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER)
	if err != nil {
		return nil, err
	}
	mode, fsType, options := v1.ReadWriteOnce, "", []string(nil)
	if pv := v.Persistent; pv != nil {
		fsType, options = pv.Spec.CSI.FSType, pv.Spec.MountOptions
		if len(pv.Spec.AccessModes) > 0 {
			mode = pv.Spec.AccessModes[0]
		}
	} else if v.Inline.FSType != nil {
		fsType = *v.Inline.FSType
	}
	out := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: accessMode(mode, several)}}
	if v.block() {
		out.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		out.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: options, VolumeMountGroup: group}}
	}
	return out, nil
}

func accessMode(mode v1.PersistentVolumeAccessMode, several bool) csi.VolumeCapability_AccessMode_Mode {
	switch mode {
	case v1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case v1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case v1.ReadWriteOncePod:
		if several {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
	case v1.ReadWriteOnce:
		if several {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
	}
	return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// final says that the driver has refused: it has done nothing, and will do nothing. After any other error it may have done it, or
// be still at it.
func final(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}
