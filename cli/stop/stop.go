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
		Use: "stop", Short: "Stop the server; Pods keep running", Args: cobra.NoArgs,
		Long: `Stop the server and wait until it has ended. Containers keep running, and the next 'peapod server' takes them
over. To end the Pods as well use 'peapod kill'; to remove everything, 'peapod uninstall'.`,
		RunE: func(*cobra.Command, []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			return Server(t, i, timeout, "; Pods keep running")
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait before killing the server (which loses nothing)")
	return cmd
}

// Server stops the instance's server if one runs, by SIGKILL when timeout has passed: the server is crash-only, so that
// is safe. and is what it says of the Pods.
func Server(t *terminal.Terminal, i instance.Instance, timeout time.Duration, and string) error {
	s, err := i.Running()
	if err != nil {
		return err
	}
	if s == nil {
		_, err := fmt.Fprintf(t.Out, "no server runs with data directory %s\n", i.DataDir)
		return err
	}
	defer s.Close()
	ended, err := s.Stop(unix.SIGTERM, int(timeout.Milliseconds()))
	if err != nil {
		return err
	}
	if !ended {
		fmt.Fprintf(t.Err, "server (process %d) did not end within %s, killing it\n", s.PID, timeout)
		if _, err := s.Stop(unix.SIGKILL, -1); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(t.Out, "server (process %d) stopped%s\n", s.PID, and)
	return err
}
