// Package uninstall is `peapod uninstall`.
package uninstall

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
		Use: "uninstall", Short: "Remove everything Peapod ever made on this machine", Args: cobra.NoArgs,
		Long: `Stop the server or agent, kill its Pods, and remove all that this instance (data directory) ever made on this machine:
its state, images, logs, interfaces, routes, nftables table, cgroups and sockets. Other instances are not touched. Where the machine
was an agent its Node stays: 'peapod kubectl delete node NAME' on the server.`,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			there, err := daemon.Installed(i)
			if err != nil {
				return err
			}
			if err := stop.Program(t, i, time.Minute, ""); err != nil {
				return err
			}
			if err := daemon.Uninstall(c.Context(), i); err != nil {
				return err
			}
			text := "removed all of %s from this machine\n"
			if !there {
				text = "there was nothing of %s on this machine\n"
			}
			_, err = fmt.Fprintf(t.Out, text, i.DataDir)
			return err
		},
	}
	t.Destroys(cmd, func(i instance.Instance) string {
		return fmt.Sprintf("This kills all Pods that the %s with data directory %s runs, and deletes all its data. It cannot be undone.", i.Program(), i.DataDir)
	})
	return cmd
}
