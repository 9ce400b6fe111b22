package oci

import (
	"fmt"
	"strings"
)

// Sysctl is a kernel setting of a sandbox's own namespaces.
type Sysctl struct {
	// Path is below /proc/sys, for example "net/ipv4/ip_forward".
	Path, Value string
}

// Sysctls checks settings against what namespaces keep apart, so that a Pod changes its own and nothing of the machine's: the IPC
// settings need an IPC namespace of the Pod's own, net.* a network namespace.
func Sysctls(settings map[string]string, hostNetwork, hostIPC bool) ([]Sysctl, error) {
	var list []Sysctl
	for name, value := range settings {
		// Both separators are in use: net/ipv4/conf/eth0.1/forwarding needs the slashes.
		path := name
		if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
			path = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(name, "/", "\x00"), ".", "/"), "\x00", ".")
		}
		kind := sysctlNamespace(path)
		switch {
		case kind == "" || !cleanSysctl(path):
			return nil, fmt.Errorf("sysctl %q is not namespaced and cannot be set for a Pod", name)
		case kind == "ipc" && hostIPC:
			return nil, fmt.Errorf("sysctl %q cannot be set with hostIPC", name)
		case kind == "net" && hostNetwork:
			return nil, fmt.Errorf("sysctl %q cannot be set with hostNetwork", name)
		}
		list = append(list, Sysctl{Path: path, Value: value})
	}
	return list, nil
}

func sysctlNamespace(path string) string {
	switch {
	case strings.HasPrefix(path, "net/"):
		return "net"
	case strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), path == "kernel/sem",
		strings.HasPrefix(path, "fs/mqueue/"):
		return "ipc"
	}
	return ""
}

// cleanSysctl refuses what would lead a path out of its place.
func cleanSysctl(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsRune(path, 0)
}
