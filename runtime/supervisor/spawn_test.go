package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// fewEnv has the directory of a supervisor that this program is to start with descriptor 3 free.
const fewEnv = "PEAPOD_TEST_SPAWN"

// TestMain is also the supervisor that TestDescriptorsOfChild starts, and who starts it.
func TestMain(m *testing.M) {
	dir := os.Getenv(fewEnv)
	switch {
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		_, _ = os.NewFile(3, "ready").WriteString("ready\n") // without it the starter fails
	case dir != "":
		if err := spawnWithFew(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// spawnWithFew has been given descriptors from 3 on: the first is closed, so that the program's copy has the number of what the child
// is given.
func spawnWithFew(dir string) error {
	body, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.NewFile(3, "given").Close(); err != nil {
		return err
	}
	_, err = New(Config{StateDir: dir, RunDir: dir}).spawn(context.Background(), NewProgram(body))
	return err
}

// TestDescriptorsOfChild: the supervisor is started whatever number the copy of its program has here.
func TestDescriptorsOfChild(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fewEnv+"="+filepath.Join(t.TempDir(), "supervisor"))
	for range 8 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, null)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
