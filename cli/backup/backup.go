// Package backup is `peapod backup`.
package backup

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Back up the cluster's objects and keys to a file", Args: terminal.Named("one file", false),
		Long: `Back up the cluster's objects and keys to a file that is not there yet, for 'peapod restore'. Run it where the server runs, as
root. The server may run, and serves on meanwhile: everything is in the backup that was acknowledged before it began. The file appears
when it is whole, checked and on disk.

Whoever can read the file is the cluster's administrator: it holds Secrets and the keys of the cluster's authorities. Not in it are
images, volumes and logs, the server's options and the files that they name, registries/ and seccomp/ of the data directory, and keys of
--encryption-provider-config. Objects in an etcd are backed up with etcd's own snapshots.`,
		Example: `  peapod backup /var/backups/peapod-$(date +%F).tar

  # on the new machine
  peapod restore peapod-2026-11-22.tar
  peapod server --node-name NAME-OF-THE-OLD-ONE`,
		RunE: func(c *cobra.Command, args []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			conn, err := terminal.Connect(i)
			if err != nil {
				return err
			}
			var server grpc.ClientConnInterface
			if conn != nil {
				defer conn.Close()
				server = conn
			}
			b, size, err := daemon.BackUp(c.Context(), i, args[0], server)
			if err != nil {
				return fmt.Errorf("back up the cluster: %w", err)
			}
			if b.Encrypted > 0 {
				fmt.Fprintf(t.Err, "%d of the objects are encrypted: keep a copy of --encryption-provider-config, and of the keys that it names, which are not in the backup.\n", b.Encrypted)
			}
			_, err = fmt.Fprintf(t.Out, "Backed up %d objects at revision %d and the cluster's keys to %s (%d bytes).\n", b.Objects, b.Revision, args[0], size)
			return err
		},
	}
}
