// Package server is `peapod server`.
package server

import (
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// tokenEnv is the environment variable that replaces --token, which other users of the machine can see.
const tokenEnv = "PEAPOD_TOKEN"

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
  peapod server --data-dir /srv/second --port 7443

  # one of several servers of a cluster; the token is in <data-dir>/server-token of the first
  peapod server --etcd-servers https://10.0.0.9:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key --token TOKEN`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := opts.Load(file, c.Flags().Changed); err != nil {
				return err
			}
			if opts.Token == "" && len(opts.EtcdServers) > 0 {
				opts.Token = os.Getenv(tokenEnv)
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
	opts.NodeOptions.AddFlags(f)
	f.StringVar(&opts.ClusterCIDR, "cluster-cidr", opts.ClusterCIDR, "addresses of Pods, at least a /24 (default: a free /16, 10.244.0.0/16 first)")
	f.StringVar(&opts.ServiceCIDR, "service-cidr", opts.ServiceCIDR, "addresses of Services, at least a /28 (default: a free /16, 10.96.0.0/16 first)")
	f.StringSliceVar(&opts.EtcdServers, "etcd-servers", nil, "keep the objects in this etcd, which other servers may share: URLs, comma separated (https, or http on loopback)")
	f.StringVar(&opts.EtcdCAFile, "etcd-cafile", "", "file with the authorities that sign etcd's certificates")
	f.StringVar(&opts.EtcdCertFile, "etcd-certfile", "", "file with the certificate to show to etcd")
	f.StringVar(&opts.EtcdKeyFile, "etcd-keyfile", "", "file with the key of that certificate")
	f.StringVar(&opts.EtcdPrefix, "etcd-prefix", opts.EtcdPrefix, "what all keys in etcd begin with")
	f.DurationVar(&opts.EtcdCompactionInterval.Duration, "etcd-compaction-interval", opts.EtcdCompactionInterval.Duration, "how much history etcd keeps; 0 leaves compaction to others")
	f.DurationVar(&opts.ClusterSigningDuration.Duration, "cluster-signing-duration", opts.ClusterSigningDuration.Duration, "how long certificates that the cluster signs are valid; requests may ask for less")
	f.DurationVar(&opts.NodeMonitorGracePeriod.Duration, "node-monitor-grace-period", opts.NodeMonitorGracePeriod.Duration, "how long a node may be silent before it counts as lost")
	f.StringVar(&opts.Token, "token", "", "token that the servers of one etcd share (environment: "+tokenEnv+"); the first server makes one, in <data-dir>/server-token")
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
