package oci

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var allCapabilities = append(slices.Clone(defaultCapabilities), "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_TIME")

func TestCapabilities(t *testing.T) {
	less := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(defaultCapabilities), func(c string) bool { return slices.Contains(drop, c) })
	}
	for _, test := range []struct {
		name      string
		add, drop []string
		want      []string
		err       string
	}{
		{"default", nil, nil, defaultCapabilities, ""},
		{"add", []string{"NET_ADMIN"}, nil, append(less(), "CAP_NET_ADMIN"), ""},
		{"add spelled out", []string{"cap_net_admin"}, nil, append(less(), "CAP_NET_ADMIN"), ""},
		{"drop", nil, []string{"KILL", "CAP_CHOWN"}, less("CAP_KILL", "CAP_CHOWN"), ""},
		{"drop all", nil, []string{"ALL"}, nil, ""},
		{"drop all, add one", []string{"NET_BIND_SERVICE"}, []string{"all"}, []string{"CAP_NET_BIND_SERVICE"}, ""},
		{"add all", []string{"ALL"}, nil, allCapabilities, ""},
		{"add all, drop one", []string{"ALL"}, []string{"SYS_TIME"}, allCapabilities[:len(allCapabilities)-1], ""},
		{"add unknown", []string{"FLY"}, nil, nil, `capability "CAP_FLY" is unknown`},
		{"add unavailable", []string{"SYS_RESOURCE"}, nil, nil, `capability "CAP_SYS_RESOURCE" is unknown or cannot be given`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := capabilities(&runtimeapi.LinuxContainerSecurityContext{
				Capabilities: &runtimeapi.Capability{AddCapabilities: test.add, DropCapabilities: test.drop},
			}, allCapabilities)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got.Bounding)
			want := slices.Sorted(slices.Values(test.want))
			if !slices.Equal(got.Bounding, want) || len(got.Inheritable) > 0 || len(got.Ambient) > 0 {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	image := &ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, test := range []struct {
		command, args []string
		image         *ocispec.ImageConfig
		want          string
	}{
		{nil, nil, image, "entry cmd"},
		{[]string{"c"}, nil, image, "c"},
		{nil, []string{"a"}, image, "entry a"},
		{[]string{"c"}, []string{"a"}, image, "c a"},
		{nil, nil, &ocispec.ImageConfig{Cmd: []string{"cmd"}}, "cmd"},
		{nil, []string{"a"}, &ocispec.ImageConfig{Cmd: []string{"cmd"}}, "a"},
		{nil, nil, &ocispec.ImageConfig{}, ""},
	} {
		got, err := arguments(&runtimeapi.ContainerConfig{Command: test.command, Args: test.args}, test.image)
		if strings.Join(got, " ") != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%v %v: got %v %v", test.command, test.args, got, err)
		}
	}
}

func TestResolveUser(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x\nweb:x:1000:1001::/srv/web:/bin/sh\nodd:x:notanumber:1::/:/\n"
	const group = "root:x:0:\nweb:x:1001:\nlog:x:2000:web,root\nshort\n"
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	type security = runtimeapi.LinuxContainerSecurityContext
	for _, test := range []struct {
		name     string
		security *security
		image    string
		want     specs.User
		home     string
		err      string
	}{
		{"nothing said", &security{}, "", specs.User{AdditionalGids: []uint32{0, 2000}}, "/root", ""},
		{"image's name", &security{}, "web", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 2000}}, "/srv/web", ""},
		{"image's number", &security{}, "1000", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 2000}}, "/srv/web", ""},
		{"image's user and group", &security{}, "web:log", specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{2000}}, "/srv/web", ""},
		{"unlisted number", &security{}, "77:88", specs.User{UID: 77, GID: 88, AdditionalGids: []uint32{88}}, "/", ""},
		{"user wins over image", &security{RunAsUser: id(5)}, "web", specs.User{UID: 5, AdditionalGids: []uint32{0}}, "/", ""},
		{"user and group", &security{RunAsUser: id(1000), RunAsGroup: id(3)}, "", specs.User{UID: 1000, GID: 3, AdditionalGids: []uint32{3, 2000}}, "/srv/web", ""},
		{"supplemental", &security{RunAsUser: id(1000), SupplementalGroups: []int64{9, 9}}, "", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{9, 1001, 2000}}, "/srv/web", ""},
		{"strict", &security{RunAsUser: id(1000), SupplementalGroups: []int64{9}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, "", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{9, 1001}}, "/srv/web", ""},
		{"absent name", &security{}, "ghost", specs.User{}, "", "unable to find user ghost: no matching entries in passwd file"},
		{"absent group", &security{}, "web:ghost", specs.User{}, "", "unable to find group ghost"},
		{"out of range", &security{}, "4294967295", specs.User{}, "", "unable to find user 4294967295"},
		{"bad supplemental", &security{SupplementalGroups: []int64{-1}}, "", specs.User{}, "", "out of range"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i := range test.want.AdditionalGids {
				if i > 0 && test.want.AdditionalGids[i-1] >= test.want.AdditionalGids[i] {
					slices.Sort(test.want.AdditionalGids)
				}
			}
			got, home, err := ResolveUser(test.security, test.image, strings.NewReader(passwd), strings.NewReader(group))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil || home != test.home {
				t.Errorf("home %q, error %v", home, err)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	huge := strings.NewReader(strings.Repeat("web:x:1000:1001::/:/bin/sh\n", maxAccounts/26))
	if _, _, err := ResolveUser(&security{}, "web", huge, strings.NewReader("")); err == nil {
		t.Error("a huge /etc/passwd was read")
	}
}

func TestSysctls(t *testing.T) {
	for _, test := range []struct {
		name             string
		hostNet, hostIPC bool
		path             string // "" if refused
	}{
		{"net.ipv4.tcp_syncookies", false, false, "net/ipv4/tcp_syncookies"},
		{"net/ipv4/conf/eth0.1/forwarding", false, false, "net/ipv4/conf/eth0.1/forwarding"},
		{"net.ipv4.conf.eth0/1.forwarding", false, false, "net/ipv4/conf/eth0.1/forwarding"},
		{"kernel.shmmax", false, false, "kernel/shmmax"},
		{"kernel.sem", false, false, "kernel/sem"},
		{"fs.mqueue.msg_max", false, false, "fs/mqueue/msg_max"},
		{"net.ipv4.tcp_syncookies", true, false, ""},
		{"kernel.shmmax", false, true, ""},
		{"kernel.panic", false, false, ""},
		{"kernel.semaphore", false, false, ""},
		{"vm.swappiness", false, false, ""},
		{"net/../vm/swappiness", false, false, ""},
		{"net/ipv4//x", false, false, ""},
		{"net", false, false, ""},
	} {
		got, err := Sysctls(map[string]string{test.name: "1"}, test.hostNet, test.hostIPC)
		if test.path == "" {
			if err == nil {
				t.Errorf("%s was accepted as %v", test.name, got)
			}
		} else if err != nil || len(got) != 1 || got[0].Path != test.path {
			t.Errorf("%s: got %v %v", test.name, got, err)
		}
	}
}

func TestResources(t *testing.T) {
	r := &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 512, MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 20,
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}, Unified: map[string]string{"memory.oom.group": "1"},
	}
	full := Resources(r, &Host{CgroupV2: true, Swap: true, Hugetlb: true})
	if *full.CPU.Quota != 20000 || *full.CPU.Shares != 512 || *full.Memory.Limit != 1<<20 || *full.Memory.Swap != 1<<20 ||
		len(full.HugepageLimits) != 1 || full.Unified["memory.oom.group"] != "1" {
		t.Errorf("got %+v", full)
	}
	// What the machine cannot limit is left out; it would fail the start.
	poor := Resources(r, &Host{})
	if poor.Memory.Swap != nil || poor.HugepageLimits != nil || poor.Unified != nil || *poor.Memory.Limit != 1<<20 {
		t.Errorf("got %+v", poor)
	}
}

func testInput() *Input {
	return &Input{
		Config: &runtimeapi.ContainerConfig{
			Command: []string{"c"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Seccomp:     &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			}},
		},
		Image: &ocispec.ImageConfig{}, Host: &Host{Capabilities: allCapabilities, CgroupV2: true}, Root: "/root", CgroupPath: "/pod/id",
		Namespaces: Namespaces{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files:      []specs.Mount{{Destination: "/etc/hosts", Source: "/sandbox/hosts", Type: "bind"}},
	}
}

func TestSpec(t *testing.T) {
	spec, err := Spec(testInput())
	if err != nil {
		t.Fatal(err)
	}
	if spec.Linux.Seccomp == nil || len(spec.Linux.Seccomp.Architectures) != 1 || !slices.Equal(spec.Linux.MaskedPaths, []string{"/proc/kcore"}) {
		t.Errorf("confinement is %v %v", spec.Linux.Seccomp, spec.Linux.MaskedPaths)
	}
	if spec.Process.OOMScoreAdj == nil || *spec.Process.OOMScoreAdj != 0 {
		t.Error("the container would inherit the supervisor's OOM score")
	}
	if rules := spec.Linux.Resources.Devices; len(rules) != 1 || rules[0].Allow {
		t.Errorf("device rules are %v", rules)
	}
	in := testInput()
	in.Config.Linux.SecurityContext.Privileged = true
	in.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/a/b", HostPath: "/1"}, {ContainerPath: "/a/", HostPath: "/2", Readonly: true},
		{ContainerPath: "/etc/hosts", HostPath: "/3", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		{ContainerPath: "/c", HostPath: "/4", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
	}
	if spec, err = Spec(in); err != nil {
		t.Fatal(err)
	}
	if spec.Linux.Seccomp != nil || spec.Linux.MaskedPaths != nil || !spec.Linux.Resources.Devices[0].Allow ||
		len(spec.Process.Capabilities.Bounding) != len(allCapabilities) || spec.Linux.RootfsPropagation != "rshared" {
		t.Errorf("privileged: %+v", spec.Linux)
	}
	var own []string
	for _, m := range spec.Mounts {
		if m.Type == "bind" {
			own = append(own, m.Destination+"="+m.Source+" "+strings.Join(m.Options, ","))
		}
	}
	want := []string{"/a=/2 rbind,rprivate,ro", "/c=/4 rbind,rslave,rw", "/a/b=/1 rbind,rprivate,rw", "/etc/hosts=/3 rbind,rshared,rw"}
	if d := cmp.Diff(want, own); d != "" {
		t.Error(d)
	}
}

func TestSpecRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Input){
		"mount over root":  func(in *Input) { in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/..", HostPath: "/x"}} },
		"mount of nothing": func(in *Input) { in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x"}} },
		"rro without ro": func(in *Input) {
			in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/x", RecursiveReadOnly: true}}
		},
		"no command": func(in *Input) { in.Config.Command = nil },
		"NUL":        func(in *Input) { in.Config.Command = []string{"a\x00b"} },
		"lost profile": func(in *Input) {
			in.Config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x"}
		},
		"apparmor": func(in *Input) {
			in.Config.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x"}
		},
	} {
		in := testInput()
		edit(in)
		if _, err := Spec(in); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestEnvironment(t *testing.T) {
	in := testInput()
	in.Image.Env = []string{"PATH=/image", "A=image", "nonsense", "=x"}
	in.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("pod=1")}, {Key: "HOME"}}
	in.HostnameEnv, in.Home = "pod", "/srv"
	want := []string{"PATH=/image", "HOSTNAME=pod", "A=pod=1", "HOME=/srv"}
	if d := cmp.Diff(want, environment(in)); d != "" {
		t.Error(d)
	}
}
