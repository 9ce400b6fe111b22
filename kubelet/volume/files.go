package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// file is one file of a volume that is made from API objects.
type file struct {
	data []byte
	mode os.FileMode
	// uid owns the file if it is not nil.
	uid *int64
}

// setUpFiles writes a configMap, secret, downwardAPI or projected volume and says when a token in it must be renewed.
func (m *Manager) setUpFiles(ctx context.Context, pv *podVolumes, v *v1.Volume) (renew time.Time, err error) {
	p := pv.pod
	files, renew, err := m.filesOf(ctx, pv, v)
	if err != nil {
		return time.Time{}, err
	}
	dir := m.volumeDir(p.UID, v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, fmt.Errorf("make directory: %w", err)
	}
	// What is secret never reaches a disk.
	if v.Secret != nil || v.Projected != nil {
		if err := mountMemory(dir, "tmpfs", unix.TMPFS_MAGIC, "mode=0755"); err != nil {
			return time.Time{}, err
		}
	}
	// The volume's root is made world-writable as Kubernetes does; containers get it read-only.
	if err := os.Chmod(dir, 0o777); err != nil {
		return time.Time{}, fmt.Errorf("set mode of directory: %w", err)
	}
	return renew, writeFiles(dir, files, fsGroup(p))
}

func fsGroup(p *v1.Pod) *int64 {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	return p.Spec.SecurityContext.FSGroup
}

func (m *Manager) filesOf(ctx context.Context, pv *podVolumes, v *v1.Volume) (map[string]file, time.Time, error) {
	p := pv.pod
	files := map[string]file{}
	var err error
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		err = m.configMapFiles(ctx, p, s.Name, s.Items, mode(s.DefaultMode), optional(s.Optional), files)
	case v.Secret != nil:
		s := v.Secret
		err = m.secretFiles(ctx, p, s.SecretName, s.Items, mode(s.DefaultMode), optional(s.Optional), files)
	case v.DownwardAPI != nil:
		err = m.downwardFiles(p, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode), files)
	case v.Projected != nil:
		return m.projectedFiles(ctx, pv, v)
	}
	return files, time.Time{}, err
}

func mode(m *int32) os.FileMode {
	if m == nil {
		return 0o644
	}
	return os.FileMode(*m) & 0o777
}

func optional(b *bool) bool { return b != nil && *b }

func (m *Manager) configMapFiles(ctx context.Context, p *v1.Pod, name string, items []v1.KeyToPath, mode os.FileMode, optional bool, out map[string]file) error {
	obj, err := m.objects.getOptional(ctx, objectRef{configMapKind, p.Namespace, name}, optional)
	if err != nil || obj == nil {
		return err
	}
	cm := obj.(*v1.ConfigMap)
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return project(data, items, mode, optional, "configmap references non-existent config key: %s", out)
}

func (m *Manager) secretFiles(ctx context.Context, p *v1.Pod, name string, items []v1.KeyToPath, mode os.FileMode, optional bool, out map[string]file) error {
	obj, err := m.objects.getOptional(ctx, objectRef{secretKind, p.Namespace, name}, optional)
	if err != nil || obj == nil {
		return err
	}
	return project(obj.(*v1.Secret).Data, items, mode, optional, "references non-existent secret key: %s", out)
}

// project picks the items of data, all where none are named.
func project(data map[string][]byte, items []v1.KeyToPath, mode os.FileMode, optional bool, missing string, out map[string]file) error {
	if len(items) == 0 {
		for k, v := range data {
			out[k] = file{data: v, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf(missing, item.Key)
		}
		out[filepath.Clean(item.Path)] = file{data: v, mode: itemMode(item.Mode, mode)}
	}
	return nil
}

func itemMode(m *int32, otherwise os.FileMode) os.FileMode {
	if m == nil {
		return otherwise
	}
	return os.FileMode(*m) & 0o777
}

func (m *Manager) downwardFiles(p *v1.Pod, items []v1.DownwardAPIVolumeFile, mode os.FileMode, out map[string]file) error {
	var podIPs, hostIPs []string
	if m.cfg.PodIPs != nil {
		podIPs = m.cfg.PodIPs(p.UID)
	}
	if m.cfg.HostIPs != nil {
		hostIPs = m.cfg.HostIPs()
	}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = criconfig.FieldValue(p, item.FieldRef.FieldPath, podIPs, hostIPs)
		case item.ResourceFieldRef != nil:
			c := containerOf(p, item.ResourceFieldRef.ContainerName)
			if c == nil {
				return fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
			}
			value, err = criconfig.ResourceValue(item.ResourceFieldRef, p, c, m.cfg.Allocatable())
		}
		if err != nil {
			return err
		}
		out[filepath.Clean(item.Path)] = file{data: []byte(value), mode: itemMode(item.Mode, mode)}
	}
	return nil
}

func containerOf(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func (m *Manager) projectedFiles(ctx context.Context, pv *podVolumes, v *v1.Volume) (map[string]file, time.Time, error) {
	p, s := pv.pod, v.Projected
	files, base := map[string]file{}, mode(s.DefaultMode)
	var renew time.Time
	again := func(next time.Time) {
		if !next.IsZero() && (renew.IsZero() || next.Before(renew)) {
			renew = next
		}
	}
	// A credential that belongs to a user or a group is for them alone.
	credential := func(path string, data []byte) {
		f := file{data: data, mode: base, uid: soleUser(p)}
		if f.uid != nil || fsGroup(p) != nil {
			f.mode = 0o600
		}
		files[filepath.Clean(path)] = f
	}
	for i := range s.Sources {
		var err error
		switch src := &s.Sources[i]; {
		case src.ConfigMap != nil:
			err = m.configMapFiles(ctx, p, src.ConfigMap.Name, src.ConfigMap.Items, base, optional(src.ConfigMap.Optional), files)
		case src.Secret != nil:
			err = m.secretFiles(ctx, p, src.Secret.Name, src.Secret.Items, base, optional(src.Secret.Optional), files)
		case src.DownwardAPI != nil:
			err = m.downwardFiles(p, src.DownwardAPI.Items, base, files)
		case src.ServiceAccountToken != nil:
			var token string
			var next time.Time
			token, next, err = m.tokens.get(ctx, p, src.ServiceAccountToken)
			again(next)
			credential(src.ServiceAccountToken.Path, []byte(token))
		case src.ClusterTrustBundle != nil:
			var anchors []byte
			anchors, err = m.trustAnchors(ctx, src.ClusterTrustBundle)
			files[filepath.Clean(src.ClusterTrustBundle.Path)] = file{data: anchors, mode: base}
		case src.PodCertificate != nil:
			var c *certificate
			c, err = m.certificate(ctx, pv, certificateKey{p.UID, v.Name, i}, src.PodCertificate)
			if err == nil {
				again(c.refresh)
				c.project(src.PodCertificate, credential)
			}
		}
		if err != nil {
			return nil, time.Time{}, err
		}
	}
	return files, renew, nil
}

// soleUser returns the user that every container of the Pod runs as, nil if they differ or it is not said.
func soleUser(p *v1.Pod) *int64 {
	var sole *int64
	same := true
	visit := func(sc *v1.SecurityContext) {
		var uid *int64
		if p.Spec.SecurityContext != nil {
			uid = p.Spec.SecurityContext.RunAsUser
		}
		if sc != nil && sc.RunAsUser != nil {
			uid = sc.RunAsUser
		}
		if uid == nil || sole != nil && *sole != *uid {
			same = false
			return
		}
		sole = uid
	}
	for i := range p.Spec.InitContainers {
		visit(p.Spec.InitContainers[i].SecurityContext)
	}
	for i := range p.Spec.Containers {
		visit(p.Spec.Containers[i].SecurityContext)
	}
	for i := range p.Spec.EphemeralContainers {
		visit(p.Spec.EphemeralContainers[i].SecurityContext)
	}
	if !same {
		return nil
	}
	return sole
}

// volumeDir is where a volume of the Pod lies, named as Kubernetes' kubelet names it.
func (m *Manager) volumeDir(uid types.UID, v *v1.Volume) string {
	return filepath.Join(m.podDir(uid), "volumes", "kubernetes.io~"+plugin(v), v.Name)
}

func plugin(v *v1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "empty-dir"
	case v.ConfigMap != nil:
		return "configmap"
	case v.Secret != nil:
		return "secret"
	case v.DownwardAPI != nil:
		return "downward-api"
	case usesClaim(v):
		return "local-volume"
	}
	return "projected"
}
