package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/peapod/peapod/kubelet/evict"
)

// TestNodeOptions: what the file says holds, flags win, and what makes no sense is refused by the flag's name.
func TestNodeOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("evictionHard: {nodefs.available: 5%}\nimageGCHighThresholdPercent: 99\nnodeName: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(args ...string) (settled, error) {
		o := DefaultOptions()
		f := pflag.NewFlagSet("server", pflag.ContinueOnError)
		o.AddFlags(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		if err := o.Load(file, f); err != nil {
			t.Fatal(err)
		}
		return o.settle()
	}
	s, err := load("--node-name", "flag")
	if err != nil || len(s.evict) != 1 || s.evict[0].Signal != evict.NodeFsAvailable || s.ImageGCHighThreshold != 99 || s.ImageGCLowThreshold != 80 || s.NodeName != "flag" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = load("--eviction-hard=memory.available<1Gi,pid.available<10%"); err != nil || len(s.evict) != 2 || s.evict[0].String() != "1Gi" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"--eviction-hard=disk<1Gi", "--image-gc-low-threshold=99", "--kubelet-port=70000", "--node-ip=127.0.0.1", "--node-name=A_b"} {
		flag, _, _ := strings.Cut(bad, "=")
		if _, err := load(bad); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if s, err := DefaultOptions().settle(); err != nil || len(s.evict) != len(evict.DefaultThresholds()) {
		t.Errorf("defaults: %+v, %v", s, err)
	}
}
