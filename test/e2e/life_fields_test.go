package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// What a Pod's spec asks for is found in its containers, and in their status.
func TestFieldsTakeEffect(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	profiles := filepath.Join(s.cluster.Instance.DataDir, "seccomp")
	if err := os.MkdirAll(profiles, 0o700); err != nil {
		t.Fatal(err)
	}
	const noDirectories = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	profile := "no-directories-" + s.name + ".json"
	if err := os.WriteFile(filepath.Join(profiles, profile), []byte(noDirectories), 0o600); err != nil {
		t.Fatal(err)
	}
	const forever = "exec sleep 1000000"
	s.apply(script("fqdn", forever, "hostname: host\nsubdomain: sub\nsetHostnameAsFQDN: true", "") +
		script("override", forever, "hostname: host\nsubdomain: sub\nhostnameOverride: over.ridden.example", "") +
		script("memory", forever, "volumes: [{name: d, emptyDir: {medium: Memory, sizeLimit: 4Mi}}]", "volumeMounts: [{name: d, mountPath: /d}]") +
		// The image has this user in a group of its own.
		script("groups", forever, "securityContext: {runAsUser: 2000, runAsGroup: 3000, supplementalGroups: [4000], supplementalGroupsPolicy: Strict}", "") +
		script("merged", forever, "securityContext: {runAsUser: 2000, runAsGroup: 3000, supplementalGroups: [4000]}", "") +
		script("sysctl", forever, `securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, value: "40000 40100"}]}`, "") +
		script("readonly", forever, "volumes: [{name: d, emptyDir: {}}]",
			"volumeMounts: [{name: d, mountPath: /d, readOnly: true, recursiveReadOnly: Enabled}, {name: d, mountPath: /w}]") +
		script("localhost", forever, "", "securityContext: {seccompProfile: {type: Localhost, localhostProfile: "+profile+"}}"))
	s.ready("fqdn", "override", "memory", "groups", "merged", "sysctl", "readonly", "localhost")

	for _, test := range []struct{ pod, command, want string }{
		{"fqdn", "hostname", fmt.Sprintf("host.sub.%s.svc.cluster.local", s.name)},
		{"override", "hostname", "over.ridden.example"},
		{"override", "echo $HOSTNAME", "over.ridden.example"},
		{"memory", "df -k /d | tail -1 | awk '{print $1, $2}'", "tmpfs 4096"},
		{"groups", "id -u; id -g; id -G", "2000\n3000\n3000 4000"},
		{"merged", "id -G", "3000 4000 5000"},
		{"sysctl", "cat /proc/sys/net/ipv4/ip_local_port_range", "40000\t40100"},
		{"readonly", "touch /w/x && ls /d; touch /d/y 2> /dev/null && echo allowed || echo refused", "x\nrefused"},
		{"localhost", "touch /file; mkdir /directory 2> /dev/null && echo allowed || echo refused", "refused"},
	} {
		got := s.kubectl("exec", test.pod, "--", "sh", "-c", test.command)
		equal(t, test.pod+": "+test.command, strings.TrimSpace(got), test.want)
	}

	st := only(t, s.get("groups"))
	if u := st.User; u == nil || u.Linux == nil || u.Linux.UID != 2000 || u.Linux.GID != 3000 || !slices.Equal(u.Linux.SupplementalGroups, []int64{3000, 4000}) {
		t.Errorf("the user of groups is told as %+v", st.User)
	}
	mounts := only(t, s.get("readonly")).VolumeMounts
	i := slices.IndexFunc(mounts, func(m corev1.VolumeMountStatus) bool { return m.MountPath == "/d" })
	if i < 0 || !mounts[i].ReadOnly || ptr.Deref(mounts[i].RecursiveReadOnly, "") != corev1.RecursiveReadOnlyEnabled {
		t.Errorf("the mounts of readonly are told as %+v", mounts)
	}
}
