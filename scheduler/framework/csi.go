package framework

import (
	storagev1 "k8s.io/api/storage/v1"
)

// CSI is what the scheduler knows of drivers: which are on each node, how many volumes they can attach there, and what is
// attached.
type CSI struct {
	nodes   map[string]*storagev1.CSINode
	drivers map[string]*storagev1.CSIDriver
	// attached are the attachments to each node, by name.
	attached map[string]map[string]*storagev1.VolumeAttachment
}

// NewCSI returns one that knows nothing.
func NewCSI() *CSI {
	return &CSI{nodes: map[string]*storagev1.CSINode{}, drivers: map[string]*storagev1.CSIDriver{}, attached: map[string]map[string]*storagev1.VolumeAttachment{}}
}

// Node returns the drivers of a node, nil if none is known.
func (c *CSI) Node(name string) *storagev1.CSINode { return c.nodes[name] }

// Driver returns what is said of a driver, nil if nothing is.
func (c *CSI) Driver(name string) *storagev1.CSIDriver { return c.drivers[name] }

// Attached returns the attachments to a node, by name. The caller does not change them.
func (c *CSI) Attached(node string) map[string]*storagev1.VolumeAttachment { return c.attached[node] }

// SetNode takes in the drivers of a node.
func (c *CSI) SetNode(n *storagev1.CSINode) { c.nodes[n.Name] = n }

// RemoveNode takes in that a node's drivers are known no more.
func (c *CSI) RemoveNode(n *storagev1.CSINode) { delete(c.nodes, n.Name) }

// SetDriver takes in a driver that appeared or changed.
func (c *CSI) SetDriver(d *storagev1.CSIDriver) { c.drivers[d.Name] = d }

// RemoveDriver takes in that a driver has gone.
func (c *CSI) RemoveDriver(d *storagev1.CSIDriver) { delete(c.drivers, d.Name) }

// SetAttachment takes in an attachment that appeared or changed; its node never does.
func (c *CSI) SetAttachment(a *storagev1.VolumeAttachment) {
	if c.attached[a.Spec.NodeName] == nil {
		c.attached[a.Spec.NodeName] = map[string]*storagev1.VolumeAttachment{}
	}
	c.attached[a.Spec.NodeName][a.Name] = a
}

// RemoveAttachment takes in that an attachment has gone.
func (c *CSI) RemoveAttachment(a *storagev1.VolumeAttachment) {
	delete(c.attached[a.Spec.NodeName], a.Name)
	if len(c.attached[a.Spec.NodeName]) == 0 {
		delete(c.attached, a.Spec.NodeName)
	}
}
