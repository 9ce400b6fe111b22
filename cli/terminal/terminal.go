// Package terminal is what every verb shares: where it reads and writes, the data directory it is about, and how it asks
// before it destroys.
package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon/instance"
)

// Terminal is one invocation's surroundings.
type Terminal struct {
	In       io.Reader
	Out, Err io.Writer
	// DataDir is --data-dir, from the environment or the default where it is not given.
	DataDir string
}

// DefaultDataDir is the data directory where --data-dir is not given.
func DefaultDataDir() string {
	if d := os.Getenv(instance.DataDirEnv); d != "" {
		return d
	}
	return instance.DefaultDataDir
}

// Instance is the instance that the invocation is about.
func (t *Terminal) Instance() (instance.Instance, error) { return instance.At(t.DataDir) }

// Named is the check that a verb is told what it is about: one, or several where many is true. what is their kind, with its article.
func Named(what string, many bool) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 || len(args) > 1 && !many {
			return fmt.Errorf("name %s: %s", what, c.UseLine())
		}
		return nil
	}
}

// Destroys adds --yes to a verb that destroys and makes it ask first; what says what will be lost.
func (t *Terminal) Destroys(cmd *cobra.Command, what func(instance.Instance) string) {
	var yes bool
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	run := cmd.RunE
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if !yes {
			i, err := t.Instance()
			if err != nil {
				return err
			}
			if err := t.confirm(c.Context(), what(i)); err != nil {
				return err
			}
		}
		return run(c, args)
	}
}

// confirm returns an error unless the user answers yes. The end of ctx, which a signal brings, is a no; what reads the
// answer then waits on in the background, for the program is about to end.
func (t *Terminal) confirm(ctx context.Context, what string) error {
	fmt.Fprintf(t.Err, "%s\nGo on? [y/N] ", what)
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(t.In).ReadString('\n')
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(t.Err)
		return errors.New("stopped: nothing was changed")
	case a := <-answered:
		switch strings.ToLower(strings.TrimSpace(a.line)) {
		case "y", "yes":
			return nil
		}
		if a.err != nil {
			return errors.New("nobody answered; give --yes to go on without being asked")
		}
		return errors.New("stopped: nothing was changed")
	}
}
