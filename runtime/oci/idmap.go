package oci

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// IDMap says which user and group IDs of the machine those of a user namespace are. Without mappings it is the machine's own
// namespace, where every ID is itself.
type IDMap struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

// Users reads which user namespace a sandbox or container asks for.
func Users(o *runtimeapi.UserNamespace) (IDMap, error) {
	if o == nil {
		return IDMap{}, nil
	}
	m := IDMap{UIDs: idMappings(o.Uids), GIDs: idMappings(o.Gids)}
	switch {
	case o.Mode == runtimeapi.NamespaceMode_NODE && m.Private():
		return m, fmt.Errorf("user namespace mode %s takes no mappings", o.Mode)
	case o.Mode == runtimeapi.NamespaceMode_NODE:
		return m, nil
	case o.Mode != runtimeapi.NamespaceMode_POD:
		return m, fmt.Errorf("user namespace mode %s is not supported: only %s and %s are", o.Mode, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_POD)
	}
	if !m.Private() {
		return m, fmt.Errorf("user namespace mode %s must map user and group 0: it has no mappings", o.Mode)
	}
	for _, list := range [][]specs.LinuxIDMapping{m.UIDs, m.GIDs} {
		for _, l := range list {
			if uint64(l.HostID)+uint64(l.Size) >= 1<<32 || uint64(l.ContainerID)+uint64(l.Size) >= 1<<32 || l.Size == 0 {
				return m, fmt.Errorf("user namespace mapping %d:%d:%d is empty or has IDs that are none", l.ContainerID, l.HostID, l.Size)
			}
		}
	}
	if _, _, err := m.Host(0, 0); err != nil {
		return m, fmt.Errorf("a user namespace must map user and group 0: %w", err)
	}
	return m, nil
}

func idMappings(list []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerId, HostID: m.HostId, Size: m.Length})
	}
	return out
}

// Private says whether the namespace is not the machine's own.
func (m IDMap) Private() bool { return len(m.UIDs)+len(m.GIDs) > 0 }

// Equal compares mappings as they are written.
func (m IDMap) Equal(o IDMap) bool {
	return slices.Equal(m.UIDs, o.UIDs) && slices.Equal(m.GIDs, o.GIDs)
}

// ErrNotMapped is the error of an ID that a user namespace does not have.
var ErrNotMapped = errors.New("not mapped in the user namespace")

// Host returns what a user and a group of the namespace are on the machine.
func (m IDMap) Host(uid, gid uint32) (hostUID, hostGID uint32, err error) {
	if !m.Private() {
		return uid, gid, nil
	}
	hostUID, ok := hostID(m.UIDs, uid)
	if !ok {
		return 0, 0, fmt.Errorf("user %d is %w", uid, ErrNotMapped)
	}
	if hostGID, ok = hostID(m.GIDs, gid); !ok {
		return 0, 0, fmt.Errorf("group %d is %w", gid, ErrNotMapped)
	}
	return hostUID, hostGID, nil
}

func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, l := range list {
		if id >= l.ContainerID && id-l.ContainerID < l.Size {
			return l.HostID + (id - l.ContainerID), true
		}
	}
	return 0, false
}

// CheckUser returns an error if a process cannot run as user in the namespace, with what to do about it.
func (m IDMap) CheckUser(user specs.User) error {
	for _, gid := range append([]uint32{user.GID}, user.AdditionalGids...) {
		if _, _, err := m.Host(user.UID, gid); err != nil {
			return fmt.Errorf("run as user %d and groups %v: %w, which has users %s and groups %s: choose others in runAsUser, runAsGroup, fsGroup and supplementalGroups, or in the image",
				user.UID, user.AdditionalGids, err, spans(m.UIDs), spans(m.GIDs))
		}
	}
	return nil
}

func spans(list []specs.LinuxIDMapping) string {
	text := ""
	for i, l := range list {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf("%d-%d", l.ContainerID, l.ContainerID+l.Size-1)
	}
	return text
}
