// Package cluster keeps what the scheduler knows: nodes and the Pods bound, or about to be bound, to them. It changes
// with each event and is never rebuilt; it has no lock, clock or I/O.
package cluster

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
)

// Cluster is the state. The zero value is not ready; use New.
type Cluster struct {
	view  framework.Cluster
	nodes map[string]*framework.Node
	// where is the node of each Pod, promised that of each Pod for which others were preempted.
	where, promised map[types.UID]string
	// shuffled says that the order of the nodes is to be worked out anew.
	shuffled bool
}

// New returns an empty cluster; namespaces returns a namespace's labels.
func New(namespaces func(string) map[string]string) *Cluster {
	c := &Cluster{nodes: map[string]*framework.Node{}, where: map[types.UID]string{}, promised: map[types.UID]string{}}
	c.view = framework.Cluster{
		Namespaces: namespaces, Index: framework.NewIndex(namespaces), Storage: framework.NewStorage(), CSI: framework.NewCSI(),
		Devices: framework.NewDevices(), Groups: framework.NewGroups(), Named: c.nodes, Promised: c.Promised, ClaimUsers: map[types.NamespacedName]map[*framework.Node]int{},
	}
	return c
}

// View is the cluster for a cycle. It is valid until the next change.
func (c *Cluster) View() *framework.Cluster {
	if c.shuffled {
		c.view.Nodes = byZones(c.view.Nodes)
		c.shuffled = false
	}
	return &c.view
}

// Known is View for who does not look at the Nodes, whose order may be an old one. It costs nothing, however many nodes change.
func (c *Cluster) Known() *framework.Cluster { return &c.view }

// byZones orders nodes so that neighbours are in different zones: a search that ends when enough are found has looked at all
// zones alike. Within a zone the order stays.
func byZones(nodes []*framework.Node) []*framework.Node {
	type zone struct{ region, name string }
	zones, order := map[zone][]*framework.Node{}, []zone(nil)
	for _, n := range nodes {
		z := zone{label(n, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion), label(n, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone)}
		if zones[z] == nil {
			order = append(order, z)
		}
		zones[z] = append(zones[z], n)
	}
	out := make([]*framework.Node, 0, len(nodes))
	for round := 0; len(out) < len(nodes); round++ {
		for _, z := range order {
			if round < len(zones[z]) {
				out = append(out, zones[z][round])
			}
		}
	}
	return out
}

// label is the value of the label, or of what it was called before.
func label(n *framework.Node, name, before string) string {
	if value, ok := n.Node.Labels[name]; ok {
		return value
	}
	return n.Node.Labels[before]
}

// SetNode adds or replaces a node.
func (c *Cluster) SetNode(n *corev1.Node) {
	node := c.node(n.Name)
	if node.Node == nil {
		c.view.Nodes = append(c.view.Nodes, node)
		c.shuffled = true
	} else if !maps.Equal(node.Node.Labels, n.Labels) {
		c.shuffled = true
	}
	node.Set(n)
}

// RemoveNode takes a node away. Its Pods are remembered, should it come back before they go.
func (c *Cluster) RemoveNode(name string) {
	node := c.nodes[name]
	if node == nil {
		return
	}
	c.view.Nodes = slices.DeleteFunc(c.view.Nodes, func(n *framework.Node) bool { return n == node })
	node.Set(nil)
	c.forget(name, node)
}

// forget drops a node that is neither known nor has Pods, nor is promised to any.
func (c *Cluster) forget(name string, node *framework.Node) {
	if node.Node == nil && len(node.Pods)+len(node.Promised) == 0 {
		delete(c.nodes, name)
		c.view.Index.NodeGone(node)
	}
}

// SetPod puts a Pod on the node, which need not be known, taking it off any other.
func (c *Cluster) SetPod(p *framework.Pod, nodeName string) {
	c.RemovePod(p.UID)
	node := c.node(nodeName)
	node.Put(p)
	c.where[p.UID] = nodeName
	for _, claim := range p.Claims {
		if c.view.ClaimUsers[claim.NamespacedName] == nil {
			c.view.ClaimUsers[claim.NamespacedName] = map[*framework.Node]int{}
		}
		c.view.ClaimUsers[claim.NamespacedName][node]++
	}
}

// Pod returns a Pod that is on a node, nil if it is on none.
func (c *Cluster) Pod(uid types.UID) *framework.Pod {
	name, ok := c.where[uid]
	if !ok {
		return nil
	}
	return c.nodes[name].Pods[uid]
}

// Pods is how many Pods are on nodes.
func (c *Cluster) Pods() int { return len(c.where) }

// RemovePod takes a Pod away, if it is there.
func (c *Cluster) RemovePod(uid types.UID) {
	name, ok := c.where[uid]
	if !ok {
		return
	}
	delete(c.where, uid)
	node := c.nodes[name]
	for _, claim := range node.Pods[uid].Claims {
		users := c.view.ClaimUsers[claim.NamespacedName]
		if users[node]--; users[node] == 0 {
			delete(users, node)
		}
		if len(users) == 0 {
			delete(c.view.ClaimUsers, claim.NamespacedName)
		}
	}
	node.Remove(uid)
	c.forget(name, node)
}

// Promise keeps room on the node, which need not be known yet, for a Pod that is to be bound there, against Pods of lower
// priority. It takes the place of what was promised before; an empty name promises nothing.
func (c *Cluster) Promise(p *framework.Pod, nodeName string) {
	c.TakeBack(p.UID)
	if nodeName == "" {
		return
	}
	node := c.node(nodeName)
	if node.Promised == nil {
		node.Promised = map[types.UID]*framework.Pod{}
	}
	node.Promised[p.UID] = p
	c.promised[p.UID] = nodeName
}

// TakeBack ends what Promise began, if it did.
func (c *Cluster) TakeBack(uid types.UID) {
	name, ok := c.promised[uid]
	if !ok {
		return
	}
	delete(c.promised, uid)
	node := c.nodes[name]
	delete(node.Promised, uid)
	c.forget(name, node)
}

// node returns the node of that name, which is made where there is none.
func (c *Cluster) node(name string) *framework.Node {
	node := c.nodes[name]
	if node == nil {
		node = framework.NewNode(c.view.Index)
		c.nodes[name] = node
	}
	return node
}

// Promised returns the node on which room is kept for the Pod, nil for none.
func (c *Cluster) Promised(uid types.UID) *framework.Node {
	name, ok := c.promised[uid]
	if !ok {
		return nil
	}
	return c.nodes[name]
}
