package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/internal/mountpoint"
	"github.com/peapod/peapod/kubelet/csi"
	"github.com/peapod/peapod/kubelet/pod"
)

// claimed is what a claim of a Pod stands for on this node.
type claimed struct {
	// volume is the persistent volume's name.
	volume string
	// path is what containers get: a directory or file, or a block device.
	path     string
	block    bool
	readOnly bool
	// options are those of the mount.
	options []string
	// follows are the claim and the volume, of volumes that may grow while they are mounted; size is what the claim had when
	// they were looked at.
	follows []objectRef
	size    resource.Quantity
}

func usesClaim(v *v1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }

// claimOf returns what a claim of the Pod stands for, once it is set up.
func (pv *podVolumes) claimOf(name string) (claimed, bool) {
	have := pv.claimed.Load()
	if have == nil {
		return claimed{}, false
	}
	c, ok := (*have)[name]
	return c, ok
}

// setUpClaim mounts the persistent volume behind a claim. Once that is done it stays so until the Pod is torn down,
// whatever becomes of the claim, but may grow. The caller holds pv.mu.
func (m *Manager) setUpClaim(ctx context.Context, pv *podVolumes, v *v1.Volume) error {
	if c, ok := pv.claimOf(v.Name); ok {
		pv.growth = errors.Join(pv.growth, m.growMounted(ctx, pv, v, c))
		return nil
	}
	claim, volume, readOnly, err := m.resolve(ctx, pv, v)
	if err != nil {
		return err
	}
	if err := m.hold(pv, volume); err != nil {
		return err
	}
	c, err := m.mountVolume(ctx, pv, v, volume, readOnly)
	if err != nil {
		return err
	}
	if err := m.growMounting(ctx, pv.pod, v, claim, volume, &c); err != nil {
		return err
	}
	pv.settle(v.Name, c)
	return nil
}

// settle notes what a volume of the Pod stands for. The caller holds pv.mu.
func (pv *podVolumes) settle(name string, c claimed) {
	all := map[string]claimed{name: c}
	if have := pv.claimed.Load(); have != nil {
		maps.Copy(all, *have)
	}
	pv.claimed.Store(&all)
}

// resolve finds a claim and its persistent volume. The claim and the volume must name each other: the claim is the user's
// to write, and the volume decides whose it is.
func (m *Manager) resolve(ctx context.Context, pv *podVolumes, v *v1.Volume) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, bool, error) {
	name, readOnly := "", false
	if v.Ephemeral != nil {
		name = ephemeral.VolumeClaimName(pv.pod, v)
	} else {
		name, readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	// fail words an error; one with next is tried again at the claim's or volume's next change.
	fail := func(next <-chan struct{}, format string, args ...any) error {
		err := fmt.Errorf("error processing PVC %s/%s: "+format, append([]any{pv.pod.Namespace, name}, args...)...)
		var retry *pod.RetryError
		if next == nil && errors.As(err, &retry) {
			next = retry.Ready
		}
		if next == nil {
			return &unprocessedError{err}
		}
		return &pod.RetryError{Err: &unprocessedError{err}, Ready: next}
	}
	obj, next, err := m.objects.get(ctx, m.also(pv, objectRef{claimKind, pv.pod.Namespace, name}))
	if err != nil {
		return nil, nil, false, fail(nil, "failed to fetch PVC from API server: %w", err)
	}
	c := obj.(*v1.PersistentVolumeClaim)
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pv.pod, c); err != nil {
			return nil, nil, false, &pod.RetryError{Err: &unprocessedError{err}, Ready: next}
		}
	}
	switch {
	case c.DeletionTimestamp != nil && !m.wasMounted(pv.pod, v):
		return nil, nil, false, fail(next, "PVC is being deleted")
	case c.Status.Phase != v1.ClaimBound:
		return nil, nil, false, fail(next, "PVC is not bound")
	case c.Spec.VolumeName == "":
		return nil, nil, false, fail(next, "PVC has empty pvc.Spec.VolumeName")
	}
	obj, next, err = m.objects.get(ctx, m.also(pv, objectRef{volumeKind, "", c.Spec.VolumeName}))
	if err != nil {
		return nil, nil, false, fail(nil, "failed to fetch PV %s from API server: %w", c.Spec.VolumeName, err)
	}
	volume := obj.(*v1.PersistentVolume)
	switch owner := volume.Spec.ClaimRef; {
	case owner == nil:
		return nil, nil, false, fail(next, "found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", volume.Name)
	case owner.UID != c.UID, owner.Namespace != c.Namespace, owner.Name != c.Name:
		return nil, nil, false, fail(next, "found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", volume.Name, owner.UID, c.UID)
	}
	return c, volume, readOnly, nil
}

// also follows one more object for the Pod and returns it.
func (m *Manager) also(pv *podVolumes, ref objectRef) objectRef {
	if !slices.Contains(pv.refs, ref) {
		m.follow(pv, append(slices.Clone(pv.refs), ref))
	}
	return ref
}

// unsettled are the claims and persistent volumes that the Pod waits for.
func (pv *podVolumes) unsettled() []objectRef {
	return slices.DeleteFunc(slices.Clone(pv.refs), func(r objectRef) bool { return r.kind != claimKind && r.kind != volumeKind })
}

// wasMounted says whether an earlier process has mounted the volume: a claim that is being deleted starts no Pod, but
// stays with one that runs.
func (m *Manager) wasMounted(p *v1.Pod, v *v1.Volume) bool {
	mounted, err := mountpoint.At(m.volumeDir(p.UID, v))
	return err == nil && mounted
}

// mountVolume makes a persistent volume ready for the containers of the Pod.
func (m *Manager) mountVolume(ctx context.Context, pv *podVolumes, v *v1.Volume, volume *v1.PersistentVolume, readOnly bool) (claimed, error) {
	p := pv.pod
	block := volume.Spec.VolumeMode != nil && *volume.Spec.VolumeMode == v1.PersistentVolumeBlock
	if err := checkMode(p, v.Name, block); err != nil {
		return claimed{}, &unprocessedError{err}
	}
	if err := m.checkNode(volume); err != nil {
		return claimed{}, err
	}
	if volume.Spec.CSI != nil && m.cfg.CSI != nil {
		c, err := m.mountCSI(pv, csi.Volume{Named: v.Name, Persistent: volume, ReadOnly: readOnly})
		c.volume = volume.Name
		return c, err
	}
	if m.cfg.Provide != nil {
		if err := m.cfg.Provide(ctx, volume); err != nil {
			return claimed{}, &mountError{fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)}
		}
	}
	out := claimed{volume: volume.Name, block: block, readOnly: readOnly}
	var err error
	switch s := &volume.Spec.PersistentVolumeSource; {
	case s.Local != nil && block:
		out.path = s.Local.Path
		err = expect(out.path, "block device", isBlockDevice)
	case s.Local != nil:
		out.path = m.volumeDir(p.UID, v)
		err = m.setUpLocal(p, volume, &out)
	case s.HostPath != nil && block:
		err = errors.New("volumeMode Block is not supported by hostPath volumes: use a local volume")
	case s.HostPath != nil:
		out.path = s.HostPath.Path
		if len(volume.Spec.MountOptions) > 0 {
			err = errors.New("mount options are not supported for this volume type")
		} else {
			err = checkHostPath(s.HostPath)
		}
	default:
		err = errors.New("no volume plugin matched: this node mounts persistent volumes with a csi, local or hostPath source only")
	}
	if err != nil {
		return claimed{}, &mountError{fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)}
	}
	return out, nil
}

func isBlockDevice(m os.FileMode) bool { return m.Type() == os.ModeDevice }

// checkMode returns an error where a container uses the volume in a way that it is not made for.
func checkMode(p *v1.Pod, name string, block bool) error {
	mode := v1.PersistentVolumeFilesystem
	if block {
		mode = v1.PersistentVolumeBlock
	}
	for c := range containers(p) {
		for i := range c.VolumeMounts {
			if c.VolumeMounts[i].Name == name && block {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", name, mode)
			}
		}
		for i := range c.VolumeDevices {
			if c.VolumeDevices[i].Name == name && !block {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", name, mode)
			}
		}
	}
	return nil
}

// containers are all of the Pod's, of the three lists.
func containers(p *v1.Pod) func(yield func(*v1.Container) bool) {
	return func(yield func(*v1.Container) bool) {
		for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
		for i := range p.Spec.EphemeralContainers {
			c := v1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(&c) {
				return
			}
		}
	}
}

// checkNode returns an error where the volume cannot be reached from this node: a Pod that names its node itself is seen
// by no scheduler.
func (m *Manager) checkNode(v *v1.PersistentVolume) error {
	node, err := m.cfg.Node()
	if err == nil {
		err = storage.CheckNodeAffinity(v, node.Labels)
	}
	if err != nil {
		return &mountError{fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", v.Name, err)}
	}
	return nil
}

// setUpLocal mounts a local volume, a directory or a block device with a file system, at the Pod's own place for it, and
// gives it to the Pod's group. Of several Pods with one volume the first decides whose group it is.
func (m *Manager) setUpLocal(p *v1.Pod, volume *v1.PersistentVolume, c *claimed) error {
	source := volume.Spec.Local.Path
	info, err := os.Stat(source)
	device := err == nil && isBlockDevice(info.Mode())
	flags, others, err := bindFlags(volume.Spec.MountOptions)
	if err != nil && !device {
		return err
	}
	if c.readOnly {
		flags |= flagReadOnly
	}
	c.readOnly, c.options = flags&flagReadOnly != 0, bindNames(flags)
	if device {
		err = mountDevice(source, volume.Spec.Local.FSType, others, c.path, flags)
	} else {
		err = bindDirectory(source, c.path, flags)
	}
	if err != nil {
		return err
	}
	gid := fsGroup(p)
	if gid == nil || c.readOnly || m.shared(p.UID, volume.Name) {
		return nil
	}
	return ownTree(c.path, int(*gid), p.Spec.SecurityContext.FSGroupChangePolicy)
}

// hold gives the Pod a volume that is for one Pod only (ReadWriteOncePod), which the scheduler sees to, but not for a Pod
// that names its node itself.
func (m *Manager) hold(pv *podVolumes, volume *v1.PersistentVolume) error {
	// With several access modes it is not known which one the Pod means.
	if modes := volume.Spec.AccessModes; len(modes) != 1 || modes[0] != v1.ReadWriteOncePod {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if holder := m.exclusive[volume.Name]; holder != nil && holder != pv {
		return &pod.RetryError{Ready: holder.ended, Err: &mountError{fmt.Errorf(
			"MountVolume.SetUp failed for volume %q : volume uses the ReadWriteOncePod access mode and is already in use by another pod", volume.Name)}}
	}
	m.exclusive[volume.Name] = pv
	return nil
}

// release forgets a Pod that is torn down, and lets others have what it had. The caller holds pv.mu.
func (m *Manager) release(pv *podVolumes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, pv.pod.UID)
	maps.DeleteFunc(m.exclusive, func(_ string, holder *podVolumes) bool { return holder == pv })
	close(pv.ended)
}

// shared says whether another Pod on this node has the volume.
func (m *Manager) shared(uid types.UID, volume string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for other, pv := range m.pods {
		have := pv.claimed.Load()
		if other == uid || have == nil {
			continue
		}
		for _, c := range *have {
			if c.volume == volume {
				return true
			}
		}
	}
	return false
}
