package attachdetach

import storagev1 "k8s.io/api/storage/v1"

// ends notes that the attachment is to be deleted. Until the informer shows that, it would be taken for one that a new Pod may use.
func (c *controller) ends(a *storagev1.VolumeAttachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending[a.Name] = a.UID
}

// stopEnding notes that the attachment stays.
func (c *controller) stopEnding(a *storagev1.VolumeAttachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending[a.Name] == a.UID {
		delete(c.ending, a.Name)
	}
}

func (c *controller) isEnding(a *storagev1.VolumeAttachment) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending[a.Name] == a.UID
}

// ended forgets what the informer has come to show ending, gone, or replaced, of the attachments of a name.
func (c *controller) ended(name string) {
	obj, exists, err := c.attachments.GetByKey(name)
	if err != nil {
		return // a store in memory does not fail
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := obj.(*storagev1.VolumeAttachment); !exists || ok && (a.DeletionTimestamp != nil || a.UID != c.ending[name]) {
		delete(c.ending, name)
	}
}
