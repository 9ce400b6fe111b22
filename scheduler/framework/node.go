package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node with the Pods that are bound, or about to be, to it.
type Node struct {
	*corev1.Node
	Pods map[types.UID]*Pod
	// Count is how many Pods there are. It, Taints and Cordoned are kept here because a search that asks each node about them
	// should not have to wait for the memory that they are in otherwise.
	Count       int64
	Allocatable Resources
	MaxPods     int64
	Taints      []corev1.Taint
	Cordoned    bool
	// Requested and Spread are the sums over Pods.
	Requested, Spread Resources
	// Promised are the Pods for which others were preempted here, until they are bound somewhere.
	Promised map[types.UID]*Pod
	// Images are the sizes of the images the node has, by each of their names.
	Images map[string]int64

	index *Index
	marks uint64
}

// NewNode returns a node without Pods that is not known yet; index follows it.
func NewNode(index *Index) *Node {
	n := &Node{Pods: map[types.UID]*Pod{}, index: index}
	index.nodes[n] = true
	return n
}

// Set replaces what is known of the node itself; nil for nothing any more.
func (n *Node) Set(node *corev1.Node) {
	old := n.Node
	n.Node = node
	n.Allocatable, n.MaxPods, n.Taints, n.Cordoned = Resources{}, 0, nil, false
	if node != nil {
		n.Allocatable = ResourcesOf(node.Status.Allocatable)
		n.MaxPods = node.Status.Allocatable.Pods().Value()
		n.Taints, n.Cordoned = node.Spec.Taints, node.Spec.Unschedulable
	}
	n.setImages(old, node)
	n.index.nodeChanged(n, old, node)
}

func (n *Node) setImages(old, new *corev1.Node) {
	if old != nil && new != nil && slices.EqualFunc(old.Status.Images, new.Status.Images, func(a, b corev1.ContainerImage) bool {
		return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
	}) {
		return
	}
	images := map[string]int64{}
	if new != nil {
		for _, image := range new.Status.Images {
			for _, name := range image.Names {
				images[name] = image.SizeBytes
			}
		}
	}
	n.index.imagesChanged(n.Images, images)
	n.Images = images
}

// Put adds a Pod or replaces the one of the same UID.
func (n *Node) Put(p *Pod) {
	n.Remove(p.UID)
	n.Pods[p.UID] = p
	n.Count++
	n.Requested.Add(p.Requests, 1)
	n.Spread.Add(p.Spread, 1)
	n.index.count(n, p, 1)
}

// Remove takes a Pod away, if it is there.
func (n *Node) Remove(uid types.UID) {
	if p := n.Pods[uid]; p != nil {
		delete(n.Pods, uid)
		n.Count--
		n.Requested.Add(p.Requests, -1)
		n.Spread.Add(p.Spread, -1)
		n.index.count(n, p, -1)
	}
}

// PortTaken says whether a Pod on the node has a port that conflicts with h.
func (n *Node) PortTaken(h HostPort) bool {
	for _, p := range n.Pods {
		if slices.ContainsFunc(p.Ports, h.Conflicts) {
			return true
		}
	}
	return false
}

// Cluster is what a cycle decides on.
type Cluster struct {
	// Nodes are those that are known, neighbours in different zones where that is possible.
	Nodes []*Node
	// Namespaces are the labels of each namespace, for Pod affinity's namespace selectors.
	Namespaces func(name string) map[string]string
	// Index counts Pods by what they match and what they want.
	Index *Index
	// Storage are the claims, volumes and classes, CSI the drivers and what they have attached.
	Storage *Storage
	CSI     *CSI
	// Devices are those that claims can have.
	Devices *Devices
	// Groups are the Pods that Services and owners select.
	Groups *Groups
	// Named are the nodes by name, and those that are known by their Pods only, whose Node is nil.
	Named map[string]*Node
	// Promised is the node on which room is kept for a Pod, nil for none.
	Promised func(types.UID) *Node
	// ClaimUsers are the nodes with Pods that use a claim, by how many.
	ClaimUsers map[types.NamespacedName]map[*Node]int
}
