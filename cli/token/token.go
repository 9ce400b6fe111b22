// Package token is `peapod token`.
package token

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Make, list and delete the tokens with which machines join",
		Long: `Make, list and delete the tokens with which machines join the cluster as nodes. Run it where the server runs.
A token says that its bearer may join, and pins the server's certificate authority, so that nobody can pose as the server.
The token that several servers share is another; 'rotate' changes it.`,
	}
	cmd.AddCommand(create(t), list(t), remove(t), rotate(t))
	return cmd
}

func create(t *terminal.Terminal) *cobra.Command {
	var ttl time.Duration
	var description string
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs,
		Long: `Make a token and print it on standard output, and on standard error how to use it. Any number of machines may
join with it until it expires; nodes that have joined stay.`,
		Example: `  # on the server
  peapod token create

  # on the machine that is to join
  peapod agent --server https://10.0.0.1:6443 --token TOKEN`,
		RunE: func(c *cobra.Command, _ []string) error {
			if ttl < 0 {
				return fmt.Errorf("--ttl %s: must not be negative; 0 is for ever", ttl)
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			token, server, err := daemon.CreateToken(c.Context(), i, ttl, description)
			if err != nil {
				return err
			}
			fmt.Fprintf(t.Err, "On the machine that is to join:\n  peapod agent --server %s --token %s\n", server, token)
			_, err = fmt.Fprintln(t.Out, token)
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long machines may join with it; 0 is for ever")
	cmd.Flags().StringVar(&description, "description", "", "what it is for, shown by list")
	return cmd
}

func list(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			tokens, err := daemon.ListTokens(c.Context(), i)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(t.Out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
			for _, token := range tokens {
				expires := "never"
				if !token.Expires.IsZero() {
					expires = token.Expires.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", token.ID, expires, token.Description)
			}
			return w.Flush()
		},
	}
}

func remove(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Delete a token: no machine joins with it any more", Args: terminal.Named("one token", false),
		RunE: func(c *cobra.Command, args []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			deleted, err := daemon.DeleteToken(c.Context(), i, args[0])
			if err != nil {
				return err
			}
			text := "token deleted\n"
			if !deleted {
				text = "there is no such token\n"
			}
			_, err = fmt.Fprint(t.Out, text)
			return err
		},
	}
}

func rotate(t *terminal.Terminal) *cobra.Command {
	opts := daemon.DefaultOptions()
	var file string
	cmd := &cobra.Command{
		Use: "rotate", Short: "Change the token that the servers of one etcd share", Args: cobra.NoArgs,
		Long: `Change the token that the servers of one etcd share, and print the new one on standard output. Run it where one of
them runs, with the same options of etcd. That server keeps the new token; the others run on, but start again only with it. With the
old token nobody reads the cluster's keys in etcd any more. Whoever has had both that token and access to etcd may have read them
before.`,
		Example: `  # on one of the servers
  peapod token rotate --etcd-servers https://10.0.0.9:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key

  # on each of the others, at its next start
  PEAPOD_TOKEN=... peapod server --etcd-servers ...`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := opts.Load(file, c.Flags()); err != nil {
				return err
			}
			i, err := t.Instance()
			if err != nil {
				return err
			}
			token, err := daemon.RotateServerToken(c.Context(), i, opts)
			if err != nil {
				return fmt.Errorf("rotate the servers' token: %w", err)
			}
			fmt.Fprintf(t.Err, "This server has the new token. Each other server needs it at its next start, as --token or %s.\n", daemon.TokenEnv)
			_, err = fmt.Fprintln(t.Out, token)
			return err
		},
	}
	opts.AddEtcdFlags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "the server's file of options (flags win)")
	return cmd
}
