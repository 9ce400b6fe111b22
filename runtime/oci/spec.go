// Package oci turns what the CRI asks of a container into an OCI runtime specification. It is pure: everything read from the machine or
// the image comes in through Input, so that each rule is a table in a test.
package oci

import (
	"errors"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Host is what the specification depends on of the machine.
type Host struct {
	// CgroupV2 says that cgroups are unified.
	CgroupV2 bool
	// Swap and Hugetlb say that the cgroup controllers can limit these; limits are left out where they cannot.
	Swap, Hugetlb bool
	// Capabilities are those this machine can give, as CAP_NAMES.
	Capabilities []string
	// Devices are the machine's device nodes, which privileged containers get.
	Devices []specs.LinuxDevice
	// AppArmor says that the kernel enforces AppArmor profiles.
	AppArmor bool
}

// Namespaces says which namespaces a container joins. An empty path means the machine's own, except for PID, where it means a new one.
type Namespaces struct {
	Network, IPC, UTS, PID, User string
	// HostPID takes the machine's PID namespace.
	HostPID bool
}

// Input is all that a specification is made of.
type Input struct {
	Config  *runtimeapi.ContainerConfig
	Sandbox *runtimeapi.PodSandboxConfig
	Image   *ocispec.ImageConfig
	// Root is the directory with the container's root file system.
	Root string
	// CgroupPath is the container's cgroup, from the root of the hierarchies.
	CgroupPath string
	Namespaces Namespaces
	// IDs are the mappings of Namespaces.User.
	IDs IDMap
	// User and Home are the result of ResolveUser.
	User specs.User
	Home string
	// Files are the mounts that the sandbox gives every container (/etc/resolv.conf, /dev/shm, ...). The container's own mounts win.
	Files []specs.Mount
	// Devices are the nodes behind Config.Devices.
	Devices []specs.LinuxDevice
	// Seccomp is the parsed profile that a Localhost profile names, else nil.
	Seccomp *specs.LinuxSeccomp
	// AppArmorLoaded are the names of the AppArmor profiles that the kernel has, if Config asks for one of the machine's (LocalhostProfile);
	// nil where the kernel does not show them.
	AppArmorLoaded []string
	// HostnameEnv is the value of the HOSTNAME variable.
	HostnameEnv string
	Host        *Host
}

// Spec makes the specification. Errors say what is wrong with the request.
func Spec(in *Input) (*specs.Spec, error) {
	security := securityContext(in.Config)
	process, err := initProcess(in, security)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mounts(in, security.GetPrivileged())
	if err != nil {
		return nil, err
	}
	resources := Resources(in.Config.GetLinux().GetResources(), in.Host)
	spec := &specs.Spec{
		Version: specs.Version,
		Process: process,
		Root:    &specs.Root{Path: in.Root, Readonly: security.GetReadonlyRootfs()},
		Mounts:  mounts,
		Linux: &specs.Linux{
			CgroupsPath:       in.CgroupPath,
			Namespaces:        namespaces(in),
			Resources:         resources,
			RootfsPropagation: propagation,
		},
	}
	resources.Devices, spec.Linux.Devices = devices(in, security.GetPrivileged())
	if !security.GetPrivileged() {
		spec.Linux.MaskedPaths = security.GetMaskedPaths()
		spec.Linux.ReadonlyPaths = security.GetReadonlyPaths()
	}
	if spec.Linux.Seccomp, err = seccompProfile(in, spec); err != nil {
		return nil, err
	}
	if process.ApparmorProfile, err = appArmorProfile(in, security); err != nil {
		return nil, err
	}
	return spec, nil
}

func securityContext(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	return c.GetLinux().GetSecurityContext()
}

func namespaces(in *Input) []specs.LinuxNamespace {
	n := &in.Namespaces
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, join := range []struct {
		kind specs.LinuxNamespaceType
		path string
	}{{specs.NetworkNamespace, n.Network}, {specs.IPCNamespace, n.IPC}, {specs.UTSNamespace, n.UTS}, {specs.UserNamespace, n.User}} {
		if join.path != "" {
			list = append(list, specs.LinuxNamespace{Type: join.kind, Path: join.path})
		}
	}
	if !n.HostPID {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: n.PID})
	}
	if in.Host.CgroupV2 && !securityContext(in.Config).GetPrivileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// defaultPath is the PATH of an image that sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func initProcess(in *Input, security *runtimeapi.LinuxContainerSecurityContext) (*specs.Process, error) {
	args, err := arguments(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(security, in.Host.Capabilities)
	if err != nil {
		return nil, err
	}
	score := int(in.Config.GetLinux().GetResources().GetOomScoreAdj())
	return &specs.Process{
		Terminal:        in.Config.Tty,
		Args:            args,
		Env:             environment(in),
		Cwd:             cwd,
		User:            in.User,
		Capabilities:    caps,
		NoNewPrivileges: security.GetNoNewPrivs(),
		OOMScoreAdj:     &score,
	}, nil
}

// ExecProcess is the process of an exec: the container's own, with other arguments.
func ExecProcess(container *specs.Process, args []string, tty bool) (*specs.Process, error) {
	if len(args) == 0 || args[0] == "" {
		return nil, errors.New("exec: no command given")
	}
	p := *container
	p.Args, p.Terminal = args, tty
	if tty && !hasVariable(p.Env, "TERM") {
		p.Env = append(append([]string(nil), p.Env...), "TERM=xterm")
	}
	p.OOMScoreAdj = nil
	return &p, nil
}

// arguments follow Docker's rule: a command replaces the image's entrypoint and drops its cmd, args replace the image's cmd.
func arguments(c *runtimeapi.ContainerConfig, image *ocispec.ImageConfig) ([]string, error) {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := append(append([]string(nil), command...), args...)
	if len(all) == 0 || all[0] == "" {
		return nil, errors.New("no command specified")
	}
	for _, a := range all {
		if strings.ContainsRune(a, 0) {
			return nil, errors.New("command contains a NUL byte")
		}
	}
	return all, nil
}

func workingDir(c *runtimeapi.ContainerConfig, image *ocispec.ImageConfig) (string, error) {
	dir := c.WorkingDir
	if dir == "" {
		dir = image.WorkingDir
	}
	if dir == "" {
		return "/", nil
	}
	if strings.ContainsRune(dir, 0) {
		return "", errors.New("working directory contains a NUL byte")
	}
	// Cleaning what is rooted cannot lead above the root; links on the way are libcontainer's to check, in the container.
	return path.Clean("/" + dir), nil
}

// environment merges, later ones winning in place: defaults, the image's, the container's.
func environment(in *Input) []string {
	var env []string
	at := map[string]int{}
	set := func(name, value string) {
		entry := name + "=" + value
		if i, ok := at[name]; ok {
			env[i] = entry
			return
		}
		at[name] = len(env)
		env = append(env, entry)
	}
	set("PATH", defaultPath)
	if in.HostnameEnv != "" {
		set("HOSTNAME", in.HostnameEnv)
	}
	if in.Config.Tty {
		set("TERM", "xterm")
	}
	for _, e := range in.Image.Env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" && !strings.ContainsRune(e, 0) {
			set(name, value)
		}
	}
	for _, kv := range in.Config.Envs {
		set(kv.Key, string(kv.Value))
	}
	// Always: libcontainer would look it up itself, reading the image's /etc/passwd whatever that is, a pipe for instance.
	if i, ok := at["HOME"]; !ok || env[i] == "HOME=" {
		home := in.Home
		if home == "" {
			home = "/"
		}
		set("HOME", home)
	}
	return env
}

func hasVariable(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}
