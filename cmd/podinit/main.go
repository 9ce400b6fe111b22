//go:build cgo

// Podinit becomes containers. `podinit supervise` is the parent of a node's containers, `podinit init` is what libcontainer executes to
// set one up from the inside, and `podinit pause` (see pause.go) holds a Pod's shared PID namespace. It is small because every container
// start and every exec pays for its package initialisation.
package main

import (
	"fmt"
	"os"
	"runtime"

	// Without these two, libcontainer starts no container and limits no devices.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// The supervisor's first thread stays its own. Libcontainer has threads enter namespaces of containers and leaves them to the Go runtime to
// end, which it cannot do with the first one: that would hold a container's mounts, and show its root as the supervisor's, to the end.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		runtime.LockOSThread()
	}
}

func main() {
	if len(os.Args) < 2 {
		fail("usage: podinit supervise --state DIR --run DIR [--cgroup PATH]; peapod runs it, not a person")
	}
	switch os.Args[1] {
	case "init":
		libcontainer.Init() // does not return
	case "supervise":
		if err := supervise(os.Args[2:]); err != nil {
			fail("podinit supervise: %v", err)
		}
	default:
		fail("podinit: unknown mode %q", os.Args[1])
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
