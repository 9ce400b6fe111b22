package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"

	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/kubelet/csi"
	"github.com/peapod/peapod/kubelet/pod"
)

// grows says whether the volume may become larger by what its node does. For those that the built-in provisioner has made the
// node has nothing to do, and hostPath volumes do not grow.
func grows(v *v1.PersistentVolume) bool {
	return v.Spec.CSI != nil || v.Spec.Local != nil && !localpath.Made(v)
}

// growing are the objects that say that a volume of the Pod, which is mounted, is to grow.
func (pv *podVolumes) growing() []objectRef {
	have := pv.claimed.Load()
	if have == nil {
		return nil
	}
	var out []objectRef
	for _, c := range *have {
		out = append(out, c.follows...)
	}
	return out
}

// growMounting grows the file system of a volume that is being mounted, where the volume has become larger than what its claim
// has. It is in the way of the mount: a program that asked for room is not started without.
func (m *Manager) growMounting(ctx context.Context, p *v1.Pod, v *v1.Volume, claim *v1.PersistentVolumeClaim, volume *v1.PersistentVolume, c *claimed) error {
	if !grows(volume) {
		return nil
	}
	c.follows = []objectRef{{claimKind, claim.Namespace, claim.Name}, {volumeKind, "", volume.Name}}
	size, err := m.grow(ctx, p, v, claim, volume, c.path)
	c.size = size
	if err != nil {
		return &mountError{fmt.Errorf("MountVolume.Setup failed while expanding volume for volume %q : %w", volume.Name, err)}
	}
	return nil
}

// growMounted grows the file system of a volume that is mounted. What hinders it is no reason to stop anything.
func (m *Manager) growMounted(ctx context.Context, pv *podVolumes, v *v1.Volume, c claimed) error {
	if len(c.follows) == 0 {
		return nil
	}
	claim, volume, err := m.claimAndVolume(ctx, c.follows)
	var missing *pod.RetryError
	if errors.As(err, &missing) {
		return nil // gone, or out of reach: the Pod keeps what it has
	}
	if err != nil || c.size.Cmp(*volume.Spec.Capacity.Storage()) >= 0 {
		return err
	}
	size, err := m.grow(ctx, pv.pod, v, claim, volume, c.path)
	if errors.As(err, &missing) {
		return nil // a driver is at it
	}
	if err != nil {
		err = fmt.Errorf("NodeExpandVolume.NodeExpandVolume failed for volume %q : %w", volume.Name, err)
		m.cfg.Event(pv.pod, v1.EventTypeWarning, claimgrowth.ReasonResizeFailed, err.Error())
		return err
	}
	c.size = size
	all := maps.Clone(*pv.claimed.Load())
	all[v.Name] = c
	pv.claimed.Store(&all)
	return nil
}

func (m *Manager) claimAndVolume(ctx context.Context, refs []objectRef) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	claim, _, err := m.objects.get(ctx, refs[0])
	if err != nil {
		return nil, nil, err
	}
	volume, _, err := m.objects.get(ctx, refs[1])
	if err != nil {
		return nil, nil, err
	}
	return claim.(*v1.PersistentVolumeClaim), volume.(*v1.PersistentVolume), nil
}

// grow makes the file system as large as the volume, has the claim say so, and returns the size that the claim then has. A
// resizer that says where it is (status.allocatedResourceStatuses) is waited for until it is the node's turn; without one it is
// the volume's capacity that counts, which the administrator writes. It may be repeated: a file system that has all of its
// device stays as it is.
func (m *Manager) grow(ctx context.Context, p *v1.Pod, v *v1.Volume, claim *v1.PersistentVolumeClaim, volume *v1.PersistentVolume, at string) (resource.Quantity, error) {
	has, size := *claim.Status.Capacity.Storage(), *volume.Spec.Capacity.Storage()
	if has.Cmp(size) >= 0 {
		return has, nil
	}
	if s := v.PersistentVolumeClaim; s != nil && s.ReadOnly {
		message := fmt.Sprintf("MountVolume.NodeExpandVolume failed for volume %q requested read-only file system", volume.Name)
		m.cfg.Event(p, v1.EventTypeWarning, claimgrowth.ReasonFileSystemNotResized, message)
		m.cfg.Event(claim, v1.EventTypeWarning, claimgrowth.ReasonFileSystemNotResized, message)
		return size, nil // of this Pod
	}
	if stage := claimgrowth.Stage(claim); stage != "" || claim.Status.AllocatedResources != nil {
		if stage != v1.PersistentVolumeClaimNodeResizePending && stage != v1.PersistentVolumeClaimNodeResizeInProgress {
			return has, nil // not the node's turn, or not any more
		}
		size = claim.Status.AllocatedResources[v1.ResourceStorage]
		begun := claim.DeepCopy()
		claimgrowth.BeginOnNode(begun)
		var err error
		if claim, err = claimgrowth.Write(ctx, m.cfg.Client, claim, begun); err != nil {
			return has, err
		}
	}
	err := m.growVolume(p, v, volume, size, at)
	var underWay *pod.RetryError
	switch {
	case errors.Is(err, csi.ErrExpansionNotSupported):
		return has, nil
	case errors.As(err, &underWay):
		return has, err
	case err != nil:
		if claimgrowth.Stage(claim) != "" {
			failed := claim.DeepCopy()
			claimgrowth.FailOnNode(failed, err)
			_, wrote := claimgrowth.Write(ctx, m.cfg.Client, claim, failed)
			err = errors.Join(err, wrote)
		}
		return has, err
	}
	message := fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q %s", volume.Name, m.cfg.NodeName)
	m.cfg.Event(p, v1.EventTypeNormal, claimgrowth.ReasonFileSystemResized, message)
	m.cfg.Event(claim, v1.EventTypeNormal, claimgrowth.ReasonFileSystemResized, message)
	done := claim.DeepCopy()
	claimgrowth.Finish(done, size)
	if _, err := claimgrowth.Write(ctx, m.cfg.Client, claim, done); err != nil {
		return has, err
	}
	return size, nil
}

// growVolume makes what the Pod has mounted as large as said. A driver does that in the background: until it has, the answer is a quiet
// *pod.RetryError, and the volume is looked at again then.
func (m *Manager) growVolume(p *v1.Pod, v *v1.Volume, volume *v1.PersistentVolume, size resource.Quantity, at string) error {
	if volume.Spec.CSI == nil {
		return growFileSystem(volume, at)
	}
	return m.cfg.CSI.Expand(csi.Volume{Pod: p, Named: v.Name, Persistent: volume}, size.Value(), func() { m.stale.Add(p.UID) })
}

// growFileSystem gives the file system of a device, mounted at that place, all of the device. Directories have no size of
// their own, and on block volumes there is no file system that is known of.
func growFileSystem(volume *v1.PersistentVolume, at string) error {
	device := volume.Spec.Local.Path
	if mode := volume.Spec.VolumeMode; mode != nil && *mode == v1.PersistentVolumeBlock {
		return nil
	}
	info, err := os.Stat(device)
	if err != nil || !isBlockDevice(info.Mode()) {
		return err
	}
	devices.LockKey(device)
	defer func() { _ = devices.UnlockKey(device) }() // fails for a key that is not locked
	_, err = mount.NewResizeFs(exec.New()).Resize(device, at)
	return err
}
