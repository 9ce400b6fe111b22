package framework

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// CSI is what the scheduler knows of drivers: which are on each node, how many volumes they can attach there, what is
// attached, and for how large volumes there is room.
type CSI struct {
	nodes   map[string]*storagev1.CSINode
	drivers map[string]*storagev1.CSIDriver
	// attached are the attachments to each node, by name.
	attached map[string]map[string]*storagev1.VolumeAttachment
	// rooms are what drivers report, by storage class.
	rooms map[string]map[types.NamespacedName]room
}

// room is a report of how large volumes of a class may be on some nodes.
type room struct {
	nodes labels.Selector
	// limit is the size, nil where it is not said.
	limit *resource.Quantity
}

// NewCSI returns one that knows nothing.
func NewCSI() *CSI {
	return &CSI{nodes: map[string]*storagev1.CSINode{}, drivers: map[string]*storagev1.CSIDriver{}, attached: map[string]map[string]*storagev1.VolumeAttachment{},
		rooms: map[string]map[types.NamespacedName]room{}}
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

// ReportsRoom says whether a driver, which may be nil, reports for how large volumes it has room.
func ReportsRoom(d *storagev1.CSIDriver) bool {
	return d != nil && d.Spec.StorageCapacity != nil && *d.Spec.StorageCapacity
}

// RoomReported says whether any driver reports for how large volumes it has room.
func (c *CSI) RoomReported() bool {
	for _, d := range c.drivers {
		if ReportsRoom(d) {
			return true
		}
	}
	return false
}

// Room says whether the driver of a class has room on a node for a volume of that size. One that does not report has. It costs a
// look at each report for the class.
func (c *CSI) Room(class *storagev1.StorageClass, size resource.Quantity, node *corev1.Node) bool {
	if !ReportsRoom(c.drivers[class.Provisioner]) {
		return true
	}
	for _, r := range c.rooms[class.Name] {
		if r.limit != nil && r.limit.Cmp(size) >= 0 && r.nodes.Matches(labels.Set(node.Labels)) {
			return true
		}
	}
	return false
}

// SetCapacity takes in a report that appeared or changed; its class and nodes never do. One that is for no nodes, or for nodes that
// cannot be told, says nothing.
func (c *CSI) SetCapacity(report *storagev1.CSIStorageCapacity) {
	selector, err := metav1.LabelSelectorAsSelector(report.NodeTopology)
	if err != nil {
		c.RemoveCapacity(report)
		return
	}
	if c.rooms[report.StorageClassName] == nil {
		c.rooms[report.StorageClassName] = map[types.NamespacedName]room{}
	}
	c.rooms[report.StorageClassName][nameOf(report)] = room{selector, VolumeLimit(report)}
}

// RemoveCapacity takes in that a report has gone.
func (c *CSI) RemoveCapacity(report *storagev1.CSIStorageCapacity) {
	delete(c.rooms[report.StorageClassName], nameOf(report))
	if len(c.rooms[report.StorageClassName]) == 0 {
		delete(c.rooms, report.StorageClassName)
	}
}

// VolumeLimit is how large a volume may be by a report, nil where that is not said. All that is free may be too large for one.
func VolumeLimit(report *storagev1.CSIStorageCapacity) *resource.Quantity {
	if report.MaximumVolumeSize != nil {
		return report.MaximumVolumeSize
	}
	return report.Capacity
}

func nameOf(report *storagev1.CSIStorageCapacity) types.NamespacedName {
	return types.NamespacedName{Namespace: report.Namespace, Name: report.Name}
}
