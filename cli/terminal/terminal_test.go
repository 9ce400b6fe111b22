package terminal

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon/instance"
)

// asks runs a verb that destroys, and says whether it did.
func asks(ctx context.Context, in io.Reader, args ...string) (done bool, err error) {
	t := &Terminal{In: in, Out: io.Discard, Err: io.Discard, DataDir: "/x"}
	cmd := &cobra.Command{Use: "destroy", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error {
		done = true
		return nil
	}}
	t.Destroys(cmd, func(instance.Instance) string { return "all goes" })
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(ctx)
	return done, err
}

func TestDestroysAsks(t *testing.T) {
	for answer, want := range map[string]string{"y\n": "", "YES\n": "", "n\n": "nothing was changed", "\n": "nothing was changed", "": "give --yes"} {
		done, err := asks(t.Context(), strings.NewReader(answer))
		if done != (want == "") || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("answer %q: done %v, %v", answer, done, err)
		}
	}
	if done, err := asks(t.Context(), strings.NewReader(""), "--yes"); !done || err != nil {
		t.Errorf("--yes: done %v, %v", done, err)
	}
}

// A signal is an answer, too.
func TestSignalAtTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		defer out.Close()
		ctx, signal := context.WithCancel(t.Context())
		go func() {
			synctest.Wait() // it asks
			signal()
		}()
		if done, err := asks(ctx, in); done || err == nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("done %v, %v", done, err)
		}
	})
}
