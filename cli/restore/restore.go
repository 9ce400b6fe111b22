// Package restore is `peapod restore`.
package restore

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Put a cluster that was backed up into a new data directory", Args: terminal.Named("one file", false),
		Long: `Put the cluster of a backup, which 'peapod backup' has made, into a data directory that has none; it is made if need be. Nothing
is written unless the backup is whole. No server is started. The cluster has the same keys: kubeconfigs and tokens from before the
backup go on, and clients that have seen later changes list anew.

Start the server with the options that it had before, --node-name above all: its name is that of the machine otherwise, and Pods of a
node that is not there are moved as those of any that fails. Where the machine has another address, agents are started with --server. Volumes
of class local-path are empty unless their directories are put back, too.

On the machine that was backed up, 'peapod stop' and move store, pki and peapod.json out of the data directory first: Pods that the backup
does not know are ended when the server starts, the others go on.`,
		Example: `  peapod restore /var/backups/peapod-2026-11-22.tar
  peapod server --node-name NAME-OF-THE-OLD-ONE`,
		RunE: func(c *cobra.Command, args []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			b, err := daemon.Restore(c.Context(), i, args[0])
			if err != nil {
				return fmt.Errorf("restore a cluster: %w", err)
			}
			if b.Encrypted > 0 {
				fmt.Fprintf(t.Err, "%d of the objects are encrypted: start the server with the --encryption-provider-config that it had.\n", b.Encrypted)
			}
			_, err = fmt.Fprintf(t.Out, "Restored %d objects of revision %d, as they were at %s, to %s. Start the server with the options that it had, --node-name among them.\n",
				b.Objects, b.Revision, b.Taken.Format(time.RFC3339), i.DataDir)
			return err
		},
	}
}
