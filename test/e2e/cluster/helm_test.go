package cluster

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// mayDiffer are modules of which Helm needs a newer version than Peapod has, and that next to nothing depends on.
var mayDiffer = map[string]bool{"github.com/BurntSushi/toml": true, "github.com/go-errors/errors": true}

// A module that Helm is built with in another version than Peapod is compiled twice, with all that uses it: for a low one
// like golang.org/x/net that is every Kubernetes library.
func TestHelmIsBuiltWithOurVersions(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	ours, helms := versions(t, filepath.Join(root, "go.mod")), versions(t, filepath.Join(root, "test", "helm", "go.mod"))
	shared := 0
	for path, version := range helms {
		if want, ok := ours[path]; ok {
			shared++
			if version != want && !mayDiffer[path] {
				t.Errorf("test/helm/go.mod has %s %s, go.mod %s: run 'go get %s@%s' in test/helm", path, version, want, path, want)
			}
		}
	}
	if shared < 50 || ours["k8s.io/client-go"] == "" || helms["k8s.io/client-go"] == "" {
		t.Errorf("the two modules have only %d requirements in common", shared)
	}
}

func versions(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(text, &mod); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range mod.Require {
		out[r.Path] = r.Version
	}
	return out
}
