// Package server is `peapod server`.
package server

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/logging"
	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	var file string
	opts := daemon.DefaultOptions()
	var level logging.Level
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
			if err := opts.Load(file, c.Flags()); err != nil {
				return err
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := level.Start(t.Err); err != nil {
				return err
			}
			if err := daemon.Run(c.Context(), i, opts); err != nil {
				return fmt.Errorf("run server: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	opts.AddFlags(f)
	f.StringVar(&file, "config", "", "file with these options in YAML (flags win); see docs/CONFIG.md")
	level.AddFlag(f)
	return cmd
}
