// Package store is `peapod store`.
package store

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Move the cluster's objects to an etcd, for several servers"}
	cmd.AddCommand(move(t))
	return cmd
}

func move(t *terminal.Terminal) *cobra.Command {
	opts := daemon.DefaultOptions()
	var file string
	cmd := &cobra.Command{
		Use: "move", Short: "Move the objects of this server's own store to an etcd", Args: cobra.NoArgs,
		Long: `Move the cluster's objects from this server's own store to an etcd that several servers can share. The server must not run;
Pods go on meanwhile. Give the options with which the server is to be started from then on: those it had, and where etcd is. Below
--etcd-prefix there must be nothing yet. The old store is kept, as store.moved in the data directory: delete it when you no longer want
it. A move that was interrupted is done by running it again; there is no way back.

Etcd's count of changes goes on where the store's has ended, so that nobody takes old for new: that takes minutes for each million.`,
		Example: `  peapod stop
  peapod store move --etcd-servers https://10.0.0.9:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key
  peapod server --etcd-servers https://10.0.0.9:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := opts.Load(file, c.Flags()); err != nil {
				return err
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			moved, err := daemon.MoveStore(c.Context(), i, opts, func(what string) { fmt.Fprintln(t.Err, what) })
			if err != nil {
				return fmt.Errorf("move the store: %w", err)
			}
			_, err = fmt.Fprintf(t.Out, "Moved %d objects to etcd. Start the server with --etcd-servers from now on; the old store is in %s.\n",
				moved.Objects, moved.Left)
			return err
		},
	}
	opts.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "the server's file of options (flags win)")
	return cmd
}
