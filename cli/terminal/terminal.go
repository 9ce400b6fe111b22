// Package terminal is what every verb shares: where it reads and writes, the data directory it is about, and how it asks
// before it destroys.
package terminal

import (
	"bufio"
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
			if err := t.confirm(what(i)); err != nil {
				return err
			}
		}
		return run(c, args)
	}
}

// confirm returns an error unless the user answers yes.
func (t *Terminal) confirm(what string) error {
	fmt.Fprintf(t.Err, "%s\nGo on? [y/N] ", what)
	line, err := bufio.NewReader(t.In).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		return fmt.Errorf("nobody answered; give --yes to go on without being asked")
	}
	return fmt.Errorf("stopped: nothing was changed")
}
