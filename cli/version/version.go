// Package version is `peapod version`.
package version

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/internal/version"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which release this is and which Kubernetes it speaks", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			commit := version.Commit
			if commit != "" {
				commit = " (" + commit + ")"
			}
			_, err := fmt.Fprintf(t.Out, "peapod %s%s\nKubernetes API %s\n%s %s/%s\n", version.Peapod, commit, version.Kubernetes,
				runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
