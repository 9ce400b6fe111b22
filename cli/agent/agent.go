// Package agent is `peapod agent`.
package agent

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/logging"
	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	var file string
	opts := daemon.DefaultAgentOptions()
	var level logging.Level
	cmd := &cobra.Command{
		Use: "agent", Short: "Make this machine a node of a cluster that runs elsewhere", Args: cobra.NoArgs,
		Long: `Make this machine a node of a cluster whose server runs elsewhere. It stays in the foreground, logs to stderr and
stops cleanly on SIGTERM; containers keep running and the next start takes them over, also while the server is away.

The token comes from 'peapod token create' on the server. It is needed once: later starts remember the cluster.
The nodes reach each other's UDP port 8472 (the Pod network) and TCP port 10250 (the kubelet).`,
		Example: `  # join
  peapod agent --server https://10.0.0.1:6443 --token TOKEN

  # start again
  peapod agent`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := opts.Load(file, c.Flags()); err != nil {
				return err
			}
			if opts.Token == "" {
				opts.Token = os.Getenv(daemon.TokenEnv)
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := level.Start(t.Err); err != nil {
				return err
			}
			if err := daemon.RunAgent(c.Context(), i, opts); err != nil {
				return fmt.Errorf("run agent: %w", err)
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
