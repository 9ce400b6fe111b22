package attachdetach

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/internal/csiname"
)

// wanted is a volume that Pods of a node use.
type wanted struct {
	volume *corev1.PersistentVolume
	pods   []*corev1.Pod
}

func (w *wanted) name() corev1.UniqueVolumeName {
	return csiname.Volume(w.volume.Spec.CSI.Driver, w.volume.Spec.CSI.VolumeHandle)
}

// ofDrivers lists the persistent volumes of CSI drivers. It costs a look at each persistent volume.
func (c *controller) ofDrivers() []*corev1.PersistentVolume {
	list, err := c.volumes.List(labels.Everything())
	if err != nil {
		return nil // listing a cache does not fail
	}
	return slices.DeleteFunc(list, func(v *corev1.PersistentVolume) bool { return v.Spec.CSI == nil })
}

// wantedOn returns the volumes that are to be attached to a node, by name. It costs a look at the node's Pods that have claims.
func (c *controller) wantedOn(node string) (map[corev1.UniqueVolumeName]*wanted, error) {
	list, err := c.pods.ByIndex(claimants, node)
	if err != nil {
		return nil, fmt.Errorf("find pods of node %s: %w", node, err)
	}
	out := map[corev1.UniqueVolumeName]*wanted{}
	for _, obj := range list {
		p := obj.(*corev1.Pod)
		if ended(p) {
			continue
		}
		for _, name := range pods.ClaimNames(p) {
			v, err := c.volumeOf(p.Namespace, name)
			if err != nil {
				return nil, err
			}
			if v == nil {
				continue
			}
			w := &wanted{volume: v}
			if have := out[w.name()]; have != nil {
				w = have
			}
			if !slices.Contains(w.pods, p) { // it may name a claim twice
				w.pods = append(w.pods, p)
			}
			out[w.name()] = w
		}
	}
	return out, nil
}

// volumeOf returns the volume of a claim if it is one to attach, nil otherwise.
func (c *controller) volumeOf(namespace, name string) (*corev1.PersistentVolume, error) {
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read claim: %w", err)
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) || err == nil && (v.Spec.CSI == nil || !bound(claim, v)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read volume: %w", err)
	}
	driver, err := c.drivers.Get(v.Spec.CSI.Driver)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read CSIDriver: %w", err)
	}
	if err != nil {
		driver = nil // nothing is said of it
	}
	if !csiname.NeedsAttach(driver) {
		return nil, nil
	}
	return v, nil
}

// bound says whether claim and volume are each other's.
func bound(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) bool {
	ref := v.Spec.ClaimRef
	return ref != nil && ref.UID == claim.UID && claim.Spec.VolumeName == v.Name && claim.Status.Phase == corev1.ClaimBound
}

// usersOf lists the Pods that have the volume and have not ended.
func (c *controller) usersOf(v *corev1.PersistentVolume) ([]*corev1.Pod, error) {
	ref := v.Spec.ClaimRef
	if ref == nil {
		return nil, nil
	}
	claim, err := c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) || err == nil && !bound(claim, v) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read claim: %w", err)
	}
	users, err := pods.UsersOf(c.pods, cache.NewObjectName(ref.Namespace, ref.Name))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(users, ended), nil
}

// ended says whether nothing of the Pod runs any more, nor will.
func ended(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	return p.DeletionTimestamp != nil && !slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Terminated == nil && s.State.Waiting == nil
	})
}

// exclusive says whether the volume may be attached to one node only.
func exclusive(v *corev1.PersistentVolume) bool {
	return !slices.ContainsFunc(v.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

// inTheWay words why the volume cannot be attached while other nodes have it, for a Pod that waits for it. Who may see the Pod need
// not see Pods of other namespaces.
func inTheWay(p *corev1.Pod, users []*corev1.Pod, nodes []string) string {
	var near []string
	far := 0
	for _, u := range users {
		switch {
		case !slices.Contains(nodes, u.Spec.NodeName):
		case u.Namespace == p.Namespace:
			near = append(near, u.Name)
		default:
			far++
		}
	}
	slices.Sort(near)
	switch {
	case len(near)+far == 0:
		return "Volume is already exclusively attached to one node and can't be attached to another"
	case len(near) == 0:
		return fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", far)
	case far == 0:
		return "Volume is already used by pod(s) " + strings.Join(near, ", ")
	}
	return fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(near, ", "), far)
}
