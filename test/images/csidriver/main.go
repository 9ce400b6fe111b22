// Command csidriver is the node part of the test driver (folder driver), to run in a privileged Pod with the kubelet's directory mounted
// at the path that it has on the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/peapod/peapod/test/images/csidriver/driver"
)

func main() {
	name := flag.String("name", "", "the driver's name")
	node := flag.String("node", "", "what the driver calls the node")
	root := flag.String("kubelet", "", "the kubelet's directory")
	most := flag.Int64("max-volumes", 0, "how many volumes the node can have attached; 0 for any number")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	own := filepath.Join(*root, "plugins", *name)
	socket := filepath.Join(own, "csi.sock")
	d := driver.New(driver.Config{Name: *name, NodeID: *node, State: filepath.Join(own, "state"), Socket: socket, Endpoint: socket,
		Registration: filepath.Join(*root, "plugins_registry", *name+"-reg.sock"), MaxVolumes: *most})
	if err := d.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "csidriver:", err)
		os.Exit(1)
	}
}
