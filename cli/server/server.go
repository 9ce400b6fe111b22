// Package server is `peapod server`.
package server

import (
	"flag"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	var file string
	opts := daemon.DefaultOptions()
	var verbosity int
	cmd := &cobra.Command{
		Use: "server", Short: "Run a cluster of one node in the foreground", Args: cobra.NoArgs,
		Long: `Run a cluster of one node: API server, store, controllers, scheduler, and this machine as its node. It stays in
the foreground, logs to stderr and stops cleanly on SIGTERM; containers keep running and the next start takes them over.
The administrator's client configuration is written to <data-dir>/admin.kubeconfig before the server is ready.`,
		Example: `  # a cluster with everything in its usual place
  peapod server

  # a second one on the same machine
  peapod server --data-dir /srv/second --port 7443`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := opts.Load(file, c.Flags().Changed); err != nil {
				return err
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := setVerbosity(verbosity); err != nil {
				return err
			}
			if err := daemon.Run(c.Context(), i, opts); err != nil {
				return fmt.Errorf("run server: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.BindAddress, "bind-address", opts.BindAddress, "IP address to serve the API on")
	f.IntVar(&opts.Port, "port", opts.Port, "port to serve the API on")
	f.IntVar(&opts.KubeletPort, "kubelet-port", opts.KubeletPort, "port to serve this node's kubelet on; 0 takes 10250, or a free one if that is taken")
	f.StringVar(&opts.NodeName, "node-name", opts.NodeName, "name of this machine's node")
	f.StringVar(&opts.NodeIP, "node-ip", opts.NodeIP, "address of this machine's node (default: the one that the default route uses)")
	f.StringVar(&opts.ClusterCIDR, "cluster-cidr", opts.ClusterCIDR, "addresses of Pods, at least a /24 (default: a free /16, 10.244.0.0/16 first)")
	f.StringVar(&opts.ServiceCIDR, "service-cidr", opts.ServiceCIDR, "addresses of Services, at least a /28 (default: a free /16, 10.96.0.0/16 first)")
	f.StringVar(&file, "config", "", "file with these options in YAML (flags win); see docs/CONFIG.md")
	f.IntVarP(&verbosity, "v", "v", 0, "number for the log level verbosity")
	return cmd
}

// setVerbosity sets klog's level, which klog takes through a flag set only.
func setVerbosity(level int) error {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	return fs.Set("v", strconv.Itoa(level))
}
