package attachdetach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/csiname"
)

// leaver is an attachment that no Pod needs.
type leaver struct {
	*storagev1.VolumeAttachment
	volume corev1.UniqueVolumeName
	// force: what the node says that it uses does not count.
	force bool
}

// sync brings a node's attachments into the state that its Pods need.
func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	node, err := c.nodes.Get(key.Name)
	switch {
	case apierrors.IsNotFound(err):
		node = nil
	case err != nil:
		return fmt.Errorf("read node: %w", err)
	}
	wanted, err := c.wantedOn(key.Name)
	if err != nil {
		return err
	}
	c.forget(key.Name, wanted)
	c.cancel(key.Name, wanted)
	have, err := c.attachedTo(key.Name, node)
	if err != nil {
		return err
	}
	var errs []error
	var attached []corev1.UniqueVolumeName
	for name, w := range wanted {
		on, err := c.attach(ctx, key.Name, node, w, have[name])
		errs = append(errs, err)
		if on {
			attached = append(attached, name)
		}
	}
	var leavers []leaver
	again := time.Duration(0)
	for name, a := range have {
		if wanted[name] != nil || a.DeletionTimestamp != nil {
			continue
		}
		may, force, wait := c.mayLeave(node, name, a)
		if may {
			leavers = append(leavers, leaver{a, name, force})
			continue
		}
		if a.Status.Attached {
			attached = append(attached, name)
		}
		if again == 0 || wait < again {
			again = wait
		}
	}
	// The list is written before anything is detached, so that the node mounts nothing of that meanwhile.
	if err := c.report(ctx, node, attached, wanted); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, l := range leavers {
		errs = append(errs, c.detach(ctx, key.Name, l))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if again > 0 {
		return &engine.Retry{After: again, Why: "a node that is not ready has volumes in use"}
	}
	return nil
}

// attachedTo returns the attachments to a node, by the volume's name. Those that others have made under names of their own are not the
// controller's to delete, and are left out.
func (c *controller) attachedTo(node string, object *corev1.Node) (map[corev1.UniqueVolumeName]*storagev1.VolumeAttachment, error) {
	list, err := c.attachments.ByIndex(byNode, node)
	if err != nil {
		return nil, fmt.Errorf("find attachments of node %s: %w", node, err)
	}
	own := map[string]*storagev1.VolumeAttachment{}
	out := map[corev1.UniqueVolumeName]*storagev1.VolumeAttachment{}
	add := func(driver, handle string) {
		if a := own[csiname.Attachment(handle, driver, node)]; a != nil {
			out[csiname.Volume(driver, handle)] = a
		}
	}
	for _, obj := range list {
		a := obj.(*storagev1.VolumeAttachment)
		if a.DeletionTimestamp == nil && c.isEnding(a) {
			a = a.DeepCopy()
			a.DeletionTimestamp = &metav1.Time{Time: c.clock.Now()}
		}
		own[a.Name] = a
		if name := a.Spec.Source.PersistentVolumeName; name != nil {
			if v, err := c.volumes.Get(*name); err == nil && v.Spec.CSI != nil {
				add(v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle)
			}
		}
	}
	if object != nil { // what is attached of a volume that has gone is known by the node's list
		for _, a := range object.Status.VolumesAttached {
			if driver, handle, ok := csiname.Parse(a.Name); ok {
				add(driver, handle)
			}
		}
	}
	return out, nil
}

// attach asks for the volume to be attached, and says whether it is. What hinders it is told to the Pods that wait, once.
func (c *controller) attach(ctx context.Context, node string, object *corev1.Node, w *wanted, a *storagev1.VolumeAttachment) (bool, error) {
	source := w.volume.Spec.CSI
	name := csiname.Attachment(source.VolumeHandle, source.Driver, node)
	c.stays(name)
	switch {
	case a != nil && a.DeletionTimestamp != nil, a == nil && object == nil:
		return false, nil // its end, or the node's appearance, is an event
	case a != nil && a.Status.Attached:
		return true, nil
	case a != nil:
		if e := a.Status.AttachError; e != nil {
			c.tell(node, w, e.Time.String()+e.Message, func(*corev1.Pod) string {
				return fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", w.volume.Name, e.Message)
			})
		}
		return false, nil
	}
	if exclusive(w.volume) {
		others, err := c.reserve(w.volume.Name, node)
		if err != nil {
			return false, err
		}
		if len(others) > 0 {
			users, err := c.usersOf(w.volume)
			c.tell(node, w, "in the way", func(p *corev1.Pod) string {
				return fmt.Sprintf("Multi-Attach error for volume %q %s", w.volume.Name, inTheWay(p, users, others))
			})
			return false, err
		}
	}
	_, err := c.client.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: source.Driver, NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &w.volume.Name}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		err = fmt.Errorf("AttachVolume.Attach failed for volume %q : %w", w.volume.Name, err)
		c.tell(node, w, err.Error(), func(*corev1.Pod) string { return err.Error() })
		return false, err
	}
	c.asked(w.volume.Name, node)
	return false, nil
}

// tell records an event for the Pods, unless what it is about was told last.
func (c *controller) tell(node string, w *wanted, what string, message func(*corev1.Pod) string) {
	c.mu.Lock()
	if c.told[node] == nil {
		c.told[node] = map[corev1.UniqueVolumeName]string{}
	}
	same := c.told[node][w.name()] == what
	c.told[node][w.name()] = what
	c.mu.Unlock()
	if same {
		return
	}
	for _, p := range w.pods {
		c.recorder.Event(p, corev1.EventTypeWarning, "FailedAttachVolume", message(p))
	}
}

// forget drops what Pods were told of volumes that none of the node's waits for any more.
func (c *controller) forget(node string, wanted map[corev1.UniqueVolumeName]*wanted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.told[node], func(name corev1.UniqueVolumeName, _ string) bool { return wanted[name] == nil })
	if len(c.told[node]) == 0 {
		delete(c.told, node)
	}
}

// stays notes that the attachment is needed.
func (c *controller) stays(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.leaving, name)
}

// mayLeave says whether the volume may be detached, and if not, when a node that is not ready has had long enough; zero stands for
// an event that says more.
func (c *controller) mayLeave(node *corev1.Node, volume corev1.UniqueVolumeName, a *storagev1.VolumeAttachment) (may, force bool, wait time.Duration) {
	c.mu.Lock()
	since, ok := c.leaving[a.Name]
	if !ok {
		since = c.clock.Now()
		c.leaving[a.Name] = since
	}
	c.mu.Unlock()
	left := maxWait - c.clock.Since(since)
	switch {
	case node != nil && outOfService(node):
		return true, true, 0
	case node != nil && !slices.Contains(node.Status.VolumesInUse, volume):
		return true, false, 0
	case node != nil && ready(node):
		return false, false, 0
	case left <= 0:
		return true, true, 0
	}
	return false, false, left
}

// report writes which volumes are attached to the node, and tells Pods of those that have come.
func (c *controller) report(ctx context.Context, node *corev1.Node, attached []corev1.UniqueVolumeName, wanted map[corev1.UniqueVolumeName]*wanted) error {
	if node == nil {
		return nil
	}
	slices.Sort(attached)
	list := []corev1.AttachedVolume{}
	before := map[corev1.UniqueVolumeName]bool{}
	for _, a := range node.Status.VolumesAttached {
		before[a.Name] = true
		if !isCSI(a.Name) {
			list = append(list, a)
		}
	}
	for _, name := range attached {
		list = append(list, corev1.AttachedVolume{Name: name})
	}
	if equality.Semantic.DeepEqual(node.Status.VolumesAttached, list) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": list}})
	if err != nil {
		return err
	}
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("report the volumes attached to node %s: %w", node.Name, err)
	}
	for _, name := range attached {
		if w := wanted[name]; w != nil && !before[name] {
			c.arrived(node.Name, w)
		}
	}
	return nil
}

func (c *controller) arrived(node string, w *wanted) {
	c.mu.Lock()
	delete(c.told[node], w.name())
	c.mu.Unlock()
	for _, p := range w.pods {
		c.recorder.Eventf(p, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", w.volume.Name)
	}
}

// detach deletes the attachment, unless the node has come to use the volume since it was taken off the list, or the volume is on the list:
// the informer of nodes is behind then, and has not shown that it was put there.
func (c *controller) detach(ctx context.Context, node string, l leaver) error {
	if !l.force {
		now, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read node: %w", err)
		}
		listed := func(a corev1.AttachedVolume) bool { return a.Name == l.volume }
		if err == nil && (slices.Contains(now.Status.VolumesInUse, l.volume) || slices.ContainsFunc(now.Status.VolumesAttached, listed)) {
			return nil // that it no longer does, or that it is on the list, is an event
		}
	} else {
		klog.FromContext(ctx).Info("Detaching a volume that its node has not let go of", "node", node, "volume", l.volume)
	}
	c.ends(l.VolumeAttachment) // before its event can come
	err := c.client.StorageV1().VolumeAttachments().Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		c.stopEnding(l.VolumeAttachment)
		return fmt.Errorf("detach volume %s from node %s: %w", l.volume, node, err)
	}
	c.mu.Lock()
	delete(c.leaving, l.Name)
	c.mu.Unlock()
	return nil
}
