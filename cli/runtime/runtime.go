// Package runtime is `peapod runtime`.
package runtime

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/logging"
	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	opts := daemon.DefaultOptions()
	var level logging.Level
	cmd := &cobra.Command{
		Use: "runtime", Short: "Run the container runtime alone, behind a CRI socket", Args: cobra.NoArgs,
		Long: `Run only the container runtime of this data directory, with its images and network, behind a CRI socket: for crictl,
critest, or a kubelet of another program. It stays in the foreground; containers keep running when it stops. The server has the
same socket for its own runtime, at /run/peapod/<instance>/cri.sock, so this is not needed beside a server.`,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := level.Start(t.Err); err != nil {
				return err
			}
			ready := func() {
				fmt.Fprintf(t.Out, "serving CRI on unix://%s\n", i.Socket())
			}
			if err := daemon.RunRuntime(c.Context(), i, opts, ready); err != nil {
				return fmt.Errorf("run container runtime: %w", err)
			}
			return nil
		},
	}
	level.AddFlag(cmd.Flags())
	cmd.Flags().StringVar(&opts.ClusterCIDR, "cluster-cidr", opts.ClusterCIDR, "addresses of Pods, at least a /24 (default: a free /16, 10.244.0.0/16 first)")
	return cmd
}
