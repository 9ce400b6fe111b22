// Package kill is `peapod kill`.
package kill

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/stop"
	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
	"github.com/peapod/peapod/daemon/instance"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{
		Use: "kill", Short: "Stop the server or agent and all its Pods on this machine", Args: cobra.NoArgs,
		Long: `Stop the server, or the agent, and kill every container it started on this machine. What was declared is kept: its
next start starts the Pods anew. To remove everything use 'peapod uninstall'.`,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := stop.Program(t, i, time.Minute, ""); err != nil {
				return err
			}
			n, err := daemon.KillPods(c.Context(), i)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.Out, "%d Pods killed; what was declared is kept in %s\n", n, i.DataDir)
			return err
		},
	}
	t.Destroys(cmd, func(i instance.Instance) string {
		return fmt.Sprintf("This kills all Pods that the %s with data directory %s runs on this machine.", i.Program(), i.DataDir)
	})
	return cmd
}
