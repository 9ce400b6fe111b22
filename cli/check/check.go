// Package check is `peapod check`.
package check

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon/preflight"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Say what this machine lacks, and the fix", Args: cobra.NoArgs,
		Long: `Try everything that running Pods needs of this machine: kernel, cgroups, overlay mounts, network, disk. Nothing is
changed. The exit code is 1 if something is missing without which no Pod can run.`,
		RunE: func(*cobra.Command, []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			failed := 0
			w := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
			for _, f := range preflight.Run(i.DataDir) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", f.Check, f.Severity, f.Found)
				if f.Fix != "" {
					fmt.Fprintf(w, "\t\tfix: %s\n", f.Fix)
				}
				if f.Severity == preflight.Fatal {
					failed++
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of what Pods need is missing on this machine", failed)
			}
			return nil
		},
	}
}
