package admit

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestSysctls: safe ones may be set, unsafe ones where the node allows them, none of the machine's own.
func TestSysctls(t *testing.T) {
	plain, err := NewSysctls(nil)
	if err != nil {
		t.Fatal(err)
	}
	open, err := NewSysctls([]string{"kernel.msg*", "net/core/somaxconn"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		allow            *Sysctls
		name             string
		hostNet, hostIPC bool
		want             string
	}{
		{plain, "net.ipv4.tcp_syncookies", false, false, ""},
		{plain, "net/ipv4/tcp_syncookies", false, false, ""},
		{plain, "net.ipv4.tcp_syncookies", true, false, `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{plain, "kernel.shm_rmid_forced", true, false, ""},
		{plain, "kernel.shm_rmid_forced", false, true, `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{plain, "kernel.msgmax", false, false, `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{plain, "net.core.somaxconn", false, false, `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{open, "kernel.msgmax", false, false, ""},
		{open, "kernel.msgmax", false, true, `forbidden sysctl: "kernel.msgmax" not allowed with host IPC enabled`},
		{open, "net.core.somaxconn", false, false, ""},
		{open, "net.core.somaxconn2", false, false, `forbidden sysctl: "net.core.somaxconn2" not allowlisted`},
		{open, "vm.swappiness", false, false, `forbidden sysctl: "vm.swappiness" not allowlisted`},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{HostNetwork: test.hostNet, HostIPC: test.hostIPC, SecurityContext: &v1.PodSecurityContext{
			Sysctls: []v1.Sysctl{{Name: "net.ipv4.ping_group_range", Value: "0 0"}, {Name: test.name, Value: "1"}},
		}}}
		if test.hostNet {
			p.Spec.SecurityContext.Sysctls = p.Spec.SecurityContext.Sysctls[1:]
		}
		got := ""
		if r := test.allow.refuse(p); r != nil {
			if got = r.Message; r.Reason != "SysctlForbidden" {
				t.Errorf("%s: reason %s", test.name, r.Reason)
			}
		}
		if got != test.want {
			t.Errorf("%s: %q, not %q", test.name, got, test.want)
		}
	}
	for _, bad := range []string{"vm.swappiness", "kernel.*", "net..core", "Net.core.x", strings.Repeat("a", 300), "*"} {
		if _, err := NewSysctls([]string{"net.core.somaxconn", bad}); err == nil || !strings.Contains(err.Error(), `"`+bad+`"`) {
			t.Errorf("%.20s was taken: %v", bad, err)
		}
	}
}
