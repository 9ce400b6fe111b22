package peapod_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/peapod/peapod/"

// layers says what each part of the house may import of ours, by the beginning of the path; the longest rule that fits a
// folder holds. Nothing but the daemon and the command line knows how the parts fit together.
var layers = map[string][]string{
	"api":       {"api/", "internal/"},
	"apiserver": {"api/", "apiserver/", "internal/"},
	// A server for tests, with its store.
	"apiserver/servertest": {""},
	"store":                {"store/", "internal/"},
	"runtime":              {"runtime/", "internal/"},
	"network":              {"network/", "internal/"},
	"network/nft":          {"network/nft", "internal/"},
	"kubelet":              {"kubelet/", "internal/"},
	"scheduler":            {"scheduler/", "internal/"},
	"controllers":          {"controllers/", "internal/"},
	// It counts what admission charges, by the same arithmetic.
	"controllers/resourcequota": {"controllers/", "internal/", "api/resource/quota"},
	"dns":                       {"dns/", "internal/"},
	"internal":                  {"internal/"},
	"cli":                       {"cli/", "daemon", "internal/", "runtime/image"},
	"cmd":                       {"cli", "daemon", "runtime/supervisor/", "internal/"},
	"cmd/hello":                 {},
	"daemon":                    {""},
	"daemon/instance":           {"internal/"},
	"daemon/preflight":          {"internal/"},
	"test":                      {""},
	"bench":                     {""},
}

// forbidden may be imported by nobody, tests included.
var forbidden = []string{"k8s.io/kubernetes"}

func TestLayers(t *testing.T) {
	walk(t, func(folder, file string, test bool, imports []string) {
		rule, allowed := ruleFor(folder)
		if rule == "" && folder != "." {
			t.Errorf("%s: no rule for folder %s: give it one in layers, or put it where ARCHITECTURE.md says", file, folder)
		}
		for _, path := range imports {
			for _, f := range forbidden {
				if path == f || strings.HasPrefix(path, f+"/") {
					t.Errorf("%s imports %s, which is never imported", file, path)
				}
			}
			ours, ok := strings.CutPrefix(path, module)
			if !ok || test {
				continue // tests may bring parts together
			}
			if !permitted(ours, allowed) {
				t.Errorf("%s imports %s, but %s may import only %v", file, ours, rule, allowed)
			}
		}
	})
}

// A kind knows no other layer than the vocabulary of kinds, and only api/all.go knows the kinds.
func TestOnlyTheListKnowsKinds(t *testing.T) {
	walk(t, func(folder, file string, test bool, imports []string) {
		if test || file == filepath.Join("api", "all.go") || strings.HasPrefix(folder, "api/") {
			return
		}
		for _, path := range imports {
			ours, ok := strings.CutPrefix(path, module+"api/")
			if ok && !strings.HasPrefix(ours, "resource") && folder != "daemon" {
				t.Errorf("%s imports the kind %s: only api/all.go does", file, ours)
			}
		}
	})
}

func ruleFor(folder string) (rule string, allowed []string) {
	for r, a := range layers {
		if (folder == r || strings.HasPrefix(folder, r+"/")) && len(r) > len(rule) {
			rule, allowed = r, a
		}
	}
	return rule, allowed
}

func permitted(path string, allowed []string) bool {
	for _, a := range allowed {
		if strings.HasPrefix(path+"/", strings.TrimSuffix(a, "/")+"/") || a == "" {
			return true
		}
	}
	return false
}

// walk calls visit with the imports of every Go file of the module.
func walk(t *testing.T, visit func(folder, file string, test bool, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, p)
		}
		visit(filepath.Dir(path), path, strings.HasSuffix(path, "_test.go"), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
