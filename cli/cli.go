// Package cli is the command line: one folder a verb.
package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/agent"
	"github.com/peapod/peapod/cli/backup"
	"github.com/peapod/peapod/cli/check"
	"github.com/peapod/peapod/cli/image"
	"github.com/peapod/peapod/cli/kill"
	"github.com/peapod/peapod/cli/kubectl"
	"github.com/peapod/peapod/cli/restore"
	"github.com/peapod/peapod/cli/runtime"
	"github.com/peapod/peapod/cli/server"
	"github.com/peapod/peapod/cli/status"
	"github.com/peapod/peapod/cli/stop"
	"github.com/peapod/peapod/cli/store"
	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/cli/token"
	"github.com/peapod/peapod/cli/uninstall"
	"github.com/peapod/peapod/cli/version"
	"github.com/peapod/peapod/daemon/instance"
)

// Run carries out the command line args (args[0] is the program's name) and returns the exit code: 0 for success, 1 for
// failure, or what kubectl returns. A program called kubectl is kubectl. SIGINT and SIGTERM end the context of Peapod's own verbs;
// kubectl does about signals what it does on its own.
func Run(args []string) int {
	if filepath.Base(args[0]) == "kubectl" {
		return kubectl.Run(terminal.DefaultDataDir(), args)
	}
	// kubectl parses its own flags, so it cannot be a verb like the others.
	if dir, rest, ok := kubectl.Invoked(args); ok {
		return kubectl.Run(dir, rest)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cobra.EnableCommandSorting = false
	root := newRoot(&terminal.Terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	root.SetArgs(args[1:])
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peapod:", err)
		return 1
	}
	return 0
}

// newRoot is the whole command with its verbs in the order in which help lists them.
func newRoot(t *terminal.Terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "peapod",
		Short: "A Kubernetes cluster in one binary",
		Long: `Peapod is a Kubernetes cluster in one binary: API server, store, controllers, scheduler, and on every
node a kubelet with its own container runtime and network. Any kubectl, Helm chart or operator can talk to it.

Start here (as root):
  peapod check                              what this machine lacks, and the fix
  peapod server                             run a cluster of one node in the foreground; go on in another terminal
  peapod kubectl run hi --image=peapod.local/hello:latest
  peapod kubectl get pods -o wide
  peapod stop                               stop the server; Pods keep running until 'peapod kill'`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringVar(&t.DataDir, "data-dir", terminal.DefaultDataDir(),
		"directory of the cluster's state (environment: "+instance.DataDirEnv+")")
	root.AddCommand(
		server.New(t), agent.New(t), token.New(t), kubectl.New(), image.New(t), status.New(t),
		stop.New(t), kill.New(t), uninstall.New(t), backup.New(t), restore.New(t), store.New(t),
		check.New(t), runtime.New(t), version.New(t),
	)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; '%s --help' lists its flags", err, c.CommandPath())
	})
	root.SetIn(t.In)
	root.SetOut(t.Out)
	root.SetErr(t.Err)
	return root
}
