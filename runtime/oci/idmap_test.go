package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func mapping(container, host, length uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{ContainerId: container, HostId: host, Length: length}}
}

func TestUsers(t *testing.T) {
	const own, node = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE
	for _, c := range []struct {
		name string
		in   *runtimeapi.UserNamespace
		want string
	}{
		{"none", nil, ""},
		{"the machine's", &runtimeapi.UserNamespace{Mode: node}, ""},
		{"own", &runtimeapi.UserNamespace{Mode: own, Uids: mapping(0, 65536, 65536), Gids: mapping(0, 65536, 65536)}, ""},
		{"several", &runtimeapi.UserNamespace{Mode: own, Uids: append(mapping(0, 65536, 10), mapping(10, 131072, 10)...), Gids: mapping(0, 65536, 1)}, ""},
		{"mode", &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET}, "user namespace mode TARGET is not supported"},
		{"the machine's, mapped", &runtimeapi.UserNamespace{Mode: node, Uids: mapping(0, 1, 1)}, "takes no mappings"},
		{"nothing", &runtimeapi.UserNamespace{Mode: own}, "must map"},
		{"no root", &runtimeapi.UserNamespace{Mode: own, Uids: mapping(1, 65536, 10), Gids: mapping(0, 65536, 10)}, "must map user and group 0: user 0 is not mapped"},
		{"no root group", &runtimeapi.UserNamespace{Mode: own, Uids: mapping(0, 65536, 10), Gids: mapping(1, 65536, 10)}, "group 0 is not mapped"},
		{"no length", &runtimeapi.UserNamespace{Mode: own, Uids: mapping(0, 65536, 0), Gids: mapping(0, 65536, 1)}, "is empty"},
		{"the highest ID", &runtimeapi.UserNamespace{Mode: own, Uids: mapping(0, 1<<32-65536, 65536), Gids: mapping(0, 65536, 1)}, "IDs that are none"},
	} {
		_, err := Users(c.in)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestIDMap(t *testing.T) {
	m, err := Users(&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: append(mapping(0, 1000, 10), mapping(20, 5000, 5)...), Gids: mapping(0, 2000, 10)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ uid, gid, hostUID, hostGID uint32 }{{0, 0, 1000, 2000}, {9, 9, 1009, 2009}, {20, 1, 5000, 2001}, {24, 0, 5004, 2000}} {
		uid, gid, err := m.Host(c.uid, c.gid)
		if err != nil || uid != c.hostUID || gid != c.hostGID {
			t.Errorf("%d:%d is %d:%d %v, want %d:%d", c.uid, c.gid, uid, gid, err, c.hostUID, c.hostGID)
		}
	}
	for _, c := range [][2]uint32{{10, 0}, {19, 0}, {25, 0}, {0, 10}} {
		if _, _, err := m.Host(c[0], c[1]); !errors.Is(err, ErrNotMapped) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if uid, gid, err := (IDMap{}).Host(70000, 80000); uid != 70000 || gid != 80000 || err != nil {
		t.Errorf("the machine's own: %d:%d, %v", uid, gid, err)
	}
	if err := m.CheckUser(specs.User{UID: 9, GID: 9, AdditionalGids: []uint32{1, 9}}); err != nil {
		t.Error(err)
	}
	want := "group 10 is not mapped in the user namespace, which has users 0-9,20-24 and groups 0-9: choose others in runAsUser"
	if err := m.CheckUser(specs.User{UID: 9, GID: 9, AdditionalGids: []uint32{10}}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestMappedMounts: a mount's mappings that are the container's are told by the option, others by themselves.
func TestMappedMounts(t *testing.T) {
	ids := IDMap{UIDs: idMappings(mapping(0, 65536, 65536)), GIDs: idMappings(mapping(0, 65536, 65536))}
	for _, c := range []struct {
		name   string
		m      *runtimeapi.Mount
		option bool
		uids   int
	}{
		{"plain", &runtimeapi.Mount{}, false, 0},
		{"same", &runtimeapi.Mount{UidMappings: mapping(0, 65536, 65536), GidMappings: mapping(0, 65536, 65536)}, true, 0},
		{"other", &runtimeapi.Mount{UidMappings: mapping(0, 131072, 65536), GidMappings: mapping(0, 131072, 65536)}, false, 1},
	} {
		c.m.ContainerPath, c.m.HostPath = "/to", "/from"
		mount, _, err := bind(c.m, ids)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(mount.Options, "idmap"); got != c.option || len(mount.UIDMappings) != c.uids || len(mount.GIDMappings) != c.uids {
			t.Errorf("%s: %+v", c.name, mount)
		}
	}
	if _, _, err := bind(&runtimeapi.Mount{ContainerPath: "/to", HostPath: "/from", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}, ids); err == nil || !strings.Contains(err.Error(), "propagation Bidirectional is not possible") {
		t.Errorf("a mount that is to reach the machine: %v", err)
	}
}
