package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node with the Pods that are bound, or about to be, to it.
type Node struct {
	*corev1.Node
	Pods        map[types.UID]*Pod
	Allocatable Resources
	MaxPods     int64
	// Requested and Spread are the sums over Pods.
	Requested, Spread Resources
	// Promised are the Pods for which others were preempted here, until they are bound somewhere.
	Promised map[types.UID]*Pod
	// Images are the sizes of the images the node has, by each of their names.
	Images map[string]int64
}

// NewNode returns a node without Pods. n may be nil: a node that Pods are bound to but that is not known yet.
func NewNode(n *corev1.Node) *Node {
	node := &Node{Pods: map[types.UID]*Pod{}}
	node.Set(n)
	return node
}

// Set replaces what is known of the node itself.
func (n *Node) Set(node *corev1.Node) {
	n.Node = node
	n.Allocatable, n.MaxPods, n.Images = Resources{}, 0, nil
	if node == nil {
		return
	}
	n.Allocatable = ResourcesOf(node.Status.Allocatable)
	n.MaxPods = node.Status.Allocatable.Pods().Value()
	n.Images = make(map[string]int64, len(node.Status.Images))
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			n.Images[name] = image.SizeBytes
		}
	}
}

// Put adds a Pod or replaces the one of the same UID.
func (n *Node) Put(p *Pod) {
	n.Remove(p.UID)
	n.Pods[p.UID] = p
	n.Requested.Add(p.Requests, 1)
	n.Spread.Add(p.Spread, 1)
}

// Remove takes a Pod away, if it is there.
func (n *Node) Remove(uid types.UID) {
	if p := n.Pods[uid]; p != nil {
		delete(n.Pods, uid)
		n.Requested.Add(p.Requests, -1)
		n.Spread.Add(p.Spread, -1)
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
	// Nodes are those that are known, in the order in which they appeared.
	Nodes []*Node
	// Namespaces are the labels of each namespace, for Pod affinity's namespace selectors.
	Namespaces func(name string) map[string]string
	// Refusing are the nodes with Pods that have required anti-affinity, by how many: only those Pods may refuse a
	// newcomer.
	Refusing map[*Node]int
	// Storage are the claims, volumes and classes.
	Storage *Storage
	// ClaimUsers are the nodes with Pods that use a claim, by how many.
	ClaimUsers map[types.NamespacedName]map[*Node]int
}
