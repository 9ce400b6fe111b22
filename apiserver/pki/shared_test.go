package pki

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A second server that is given what the first has signs as the first does; a third's directory of another cluster is
// refused and left as it is.
func TestShared(t *testing.T) {
	first, second, other := filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "pki")
	p := open(t, Config{Dir: first})
	files, err := ReadShared(first)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := InstallShared(second, files); err != nil {
			t.Fatal(err)
		}
	}
	q := open(t, Config{Dir: second})
	if p.ServerCA().Pin() != q.ServerCA().Pin() || p.ClientCA().Pin() != q.ClientCA().Pin() || p.FrontProxyCA().Pin() != q.FrontProxyCA().Pin() || !p.TokenKeys()[0].Equal(q.TokenKeys()[0]) {
		t.Error("the servers have other keys")
	}
	// A cluster that had no front proxy when it was made.
	delete(files, "front-proxy-ca")
	third := filepath.Join(t.TempDir(), "pki")
	for range 2 {
		if err := InstallShared(third, files); err != nil {
			t.Fatal(err)
		}
		if r := open(t, Config{Dir: third}); r.FrontProxyCA().Pin() == p.FrontProxyCA().Pin() || r.ClientCA().Pin() != p.ClientCA().Pin() {
			t.Error("the third server has other keys than it should")
		}
	}
	open(t, Config{Dir: other})
	before, err := os.ReadFile(filepath.Join(other, "client-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var wrong *OtherClusterError
	if err := InstallShared(other, files); !errors.As(err, &wrong) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(other, "client-ca.pem")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed, %v", err)
	}
}
