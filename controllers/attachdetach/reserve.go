package attachdetach

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// reservation says that a node gets a volume that only one may have. An attachment that was asked for is not among those that are known
// until its event has come, and two nodes are worked on at once: without the reservation both would get the volume.
type reservation struct {
	node string
	// asked: the attachment exists; only its event ends the reservation.
	asked bool
}

// reserve keeps an exclusive volume for the node, or lists the other nodes that have it or are about to.
func (c *controller) reserve(volume, node string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := c.attachments.ByIndex(byVolume, volume)
	if err != nil {
		return nil, fmt.Errorf("find attachments of volume %s: %w", volume, err)
	}
	var out []string
	for _, obj := range list {
		if a := obj.(*storagev1.VolumeAttachment); a.Spec.NodeName != node {
			out = append(out, a.Spec.NodeName)
		}
	}
	r, reserved := c.making[volume]
	if reserved && r.node != node && !slices.Contains(out, r.node) {
		out = append(out, r.node)
	}
	if len(out) == 0 {
		c.making[volume] = reservation{node: node, asked: r.asked}
	}
	return out, nil
}

// asked notes that the attachment exists.
func (c *controller) asked(volume, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.making[volume].node == node {
		c.making[volume] = reservation{node: node, asked: true}
	}
}

// seen ends the node's reservation: who has the volume is known by its attachment.
func (c *controller) seen(volume, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.making[volume].node == node {
		delete(c.making, volume)
	}
}

// cancel ends the node's reservations of volumes that it no longer wants and whose attachment was not made, and lets other nodes try.
func (c *controller) cancel(node string, wanted map[corev1.UniqueVolumeName]*wanted) {
	needed := map[string]bool{}
	for _, w := range wanted {
		needed[w.volume.Name] = true
	}
	var free []*corev1.PersistentVolume
	c.mu.Lock()
	for name, r := range c.making {
		if r.node != node || r.asked || needed[name] {
			continue
		}
		delete(c.making, name)
		if v, err := c.volumes.Get(name); err == nil { // nobody waits for one that has gone
			free = append(free, v)
		}
	}
	c.mu.Unlock()
	for _, v := range free {
		c.volumeChanged(v)
	}
}
