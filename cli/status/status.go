// Package status is `peapod status`.
package status

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon/instance"
)

// New is the verb.
func New(t *terminal.Terminal) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "Say whether the server or agent runs and is ready", Args: cobra.NoArgs,
		Long: `Say whether the server or agent of this data directory runs and its node is ready. The exit code is 0 if so and 1 otherwise.`,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if wait > 0 {
				ctx, cancel := context.WithTimeout(c.Context(), wait)
				defer cancel()
				if err := ready(ctx, i); err != nil {
					return err
				}
			}
			return report(t, i)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for it to be ready")
	return cmd
}

func report(t *terminal.Terminal, i instance.Instance) error {
	s, err := i.Running()
	if err != nil {
		return err
	}
	if s == nil {
		return fmt.Errorf("no %s runs with data directory %s", i.Program(), i.DataDir)
	}
	defer s.Close()
	if !i.Ready(s) {
		return fmt.Errorf("%s (process %d) with data directory %s is starting", i.Program(), s.PID, i.DataDir)
	}
	if _, err := fmt.Fprintf(t.Out, "%s (process %d) with data directory %s is ready\n", i.Program(), s.PID, i.DataDir); err != nil {
		return err
	}
	if _, err := os.Stat(i.Kubeconfig()); err != nil { // an agent has none
		return nil
	}
	_, err = fmt.Fprintf(t.Out, "kubeconfig: %s\n", i.Kubeconfig())
	return err
}

// ready returns when the server of i has announced that it is ready.
func ready(ctx context.Context, i instance.Instance) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch for the server: %w", err)
	}
	defer w.Close()
	if err := os.MkdirAll(i.RunDir, 0o711); err != nil {
		return fmt.Errorf("watch for the server: %w", err)
	}
	if err := w.Add(filepath.Dir(i.ReadyFile())); err != nil {
		return fmt.Errorf("watch for the server: %w", err)
	}
	for {
		s, err := i.Running()
		if err != nil {
			return err
		}
		if s != nil {
			ready := i.Ready(s)
			s.Close()
			if ready {
				return nil
			}
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			return fmt.Errorf("watch for the server: %w", err)
		case <-ctx.Done():
			if s == nil {
				return fmt.Errorf("no %s runs with data directory %s, and none was started in time", i.Program(), i.DataDir)
			}
			return fmt.Errorf("the %s (process %d) is not ready in time; its log says why", i.Program(), s.PID)
		}
	}
}
