// Package stop is `peapod stop`.
package stop

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon/instance"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "stop", Short: "Stop the server or agent; Pods keep running", Args: cobra.NoArgs,
		Long: `Stop the server, or the agent, and wait until it has ended. Containers keep running, and its next start takes them
over. To end the Pods as well use 'peapod kill'; to remove everything, 'peapod uninstall'.`,
		RunE: func(*cobra.Command, []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			return Program(t, i, timeout, "; Pods keep running")
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait before killing it (which loses nothing)")
	return cmd
}

// Program stops the instance's server or agent if it runs, by SIGKILL when timeout has passed: both are crash-only, so that
// is safe. and is what it says of the Pods.
func Program(t *terminal.Terminal, i instance.Instance, timeout time.Duration, and string) error {
	s, err := i.Running()
	if err != nil {
		return err
	}
	if s == nil {
		_, err := fmt.Fprintf(t.Out, "no %s runs with data directory %s\n", i.Program(), i.DataDir)
		return err
	}
	defer s.Close()
	ended, err := s.Stop(unix.SIGTERM, int(timeout.Milliseconds()))
	if err != nil {
		return err
	}
	if !ended {
		fmt.Fprintf(t.Err, "%s (process %d) did not end within %s, killing it\n", i.Program(), s.PID, timeout)
		if _, err := s.Stop(unix.SIGKILL, -1); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(t.Out, "%s (process %d) stopped%s\n", i.Program(), s.PID, and)
	return err
}
