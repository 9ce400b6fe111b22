package volume

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/kubelet/csi"
)

// setUpInline mounts a volume that a driver makes for the Pod alone. The caller holds pv.mu.
func (m *Manager) setUpInline(pv *podVolumes, v *v1.Volume) error {
	if _, ok := pv.claimOf(v.Name); ok {
		return nil
	}
	if m.cfg.CSI == nil {
		return fmt.Errorf("no volume plugin matched: this node has none for the kind of volume %q", v.Name)
	}
	c, err := m.mountCSI(pv, csi.Volume{Named: v.Name, Inline: v.CSI, ReadOnly: v.CSI.ReadOnly != nil && *v.CSI.ReadOnly})
	if err != nil {
		return err
	}
	pv.settle(v.Name, c)
	return nil
}

// mountCSI has a driver mount a volume. The caller holds pv.mu.
func (m *Manager) mountCSI(pv *podVolumes, v csi.Volume) (claimed, error) {
	p := pv.pod
	v.Pod = p
	if gid := fsGroup(p); gid != nil {
		v.Own = func(path string) error { return ownTree(path, int(*gid), p.Spec.SecurityContext.FSGroupChangePolicy) }
	}
	v.Token = func(ctx context.Context, audience string, seconds *int64) (authenticationv1.TokenRequestStatus, error) {
		return m.tokens.status(ctx, p, audience, seconds)
	}
	got, err := m.cfg.CSI.SetUp(v, pv.preparing)
	if err != nil {
		return claimed{}, &mountError{err}
	}
	out := claimed{path: got.Path, block: got.Block, readOnly: v.ReadOnly}
	if got.Block {
		return out, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(got.Path, &st); err != nil {
		return claimed{}, &mountError{fmt.Errorf("MountVolume.SetUp failed for volume %q : look at %s: %w", v.Named, got.Path, err)}
	}
	out.options = bindNames(uintptr(st.Flags) & (unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME)) // of the values of MS_*
	return out, nil
}
