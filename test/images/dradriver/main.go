// Command dradriver is the test driver of devices (folder driver), to run in a Pod of a node with the kubelet's directories for plugins,
// and one of the container runtime's, mounted at the paths that they have on the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/test/images/dradriver/driver"
)

func main() {
	var cfg driver.Config
	flag.StringVar(&cfg.Name, "name", "", "the driver's name")
	flag.StringVar(&cfg.Node, "node", "", "the node's name")
	flag.StringVar((*string)(&cfg.Pod), "pod", "", "the UID of the driver's Pod")
	flag.StringVar(&cfg.Kubelet, "kubelet", "", "the kubelet's directory")
	flag.StringVar(&cfg.CDI, "cdi", "", "a directory that the container runtime reads")
	flag.IntVar(&cfg.Devices, "devices", 0, "how many devices the node has")
	flag.Parse()
	if err := run(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "dradriver:", err)
		os.Exit(1)
	}
}

// run is the driver until the process is told to end.
func run(cfg driver.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	if cfg.Client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	cfg.Failed = func(err error) { fmt.Fprintln(os.Stderr, "dradriver:", err) }
	cfg.Before = func(_ context.Context, what string, claim types.UID) error {
		fmt.Println(what, claim)
		return nil
	}
	d, err := driver.Start(ctx, cfg)
	if err != nil {
		return err
	}
	<-ctx.Done()
	d.Stop()
	return nil
}
