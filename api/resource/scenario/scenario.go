// Package scenario runs the text files that show how a kind behaves: what is written, and what comes of it. They are
// read as documentation and rewritten, after a look at the difference, by `go test -rewrite`.
//
// A file is a stream of YAML documents, one a case:
//
//	# A comment says why.
//	case: a node port is given where the type wants one
//	do: create            # or update, status, print
//	via: events.k8s.io/v1 # the version of the request, if it matters
//	families: [IPv4]      # the cluster's service ranges, if they matter
//	old: {...}            # for update and status: created before
//	stored: {...}         # the same, but taken as it stands
//	obj: {...}            # what the client sends
//	show: [spec.ports]    # the parts of the outcome that matter; everything if left out
//	want: {...}           # what comes of it: errors, or the object (and warnings); for print, the cells
package scenario

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/api/resource"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios come to into their files")

// Case is one document.
type Case struct {
	Case     string         `json:"case"`
	Do       string         `json:"do"`
	Via      string         `json:"via,omitempty"`
	Families []string       `json:"families,omitempty"`
	Old      map[string]any `json:"old,omitempty"`
	Stored   map[string]any `json:"stored,omitempty"`
	Obj      map[string]any `json:"obj"`
	Show     []string       `json:"show,omitempty"`
	Want     map[string]any `json:"want,omitempty"`
}

// Run runs every case of dir/*.yaml against the kind.
func Run(t *testing.T, d *resource.Declaration, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) { runFile(t, d, file) })
	}
}

const separator = "\n---\n"

func runFile(t *testing.T, d *resource.Declaration, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), separator)
	for i, document := range documents {
		var c Case
		if err := yaml.UnmarshalStrict([]byte(document+"\n"), &c); err != nil {
			t.Fatalf("%s, document %d: %v", file, i+1, err)
		}
		t.Run(c.Case, func(t *testing.T) {
			got, err := c.outcome(d)
			if err != nil {
				t.Fatal(err)
			}
			if *rewrite {
				documents[i] = withWant(t, document, got)
				return
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", file, c.Case, diff)
			}
		})
	}
	if !*rewrite {
		return
	}
	if out := []byte(strings.Join(documents, separator)); !bytes.Equal(out, text) {
		if err := os.WriteFile(file, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// withWant replaces the end of a document, which is what is expected, and leaves its beginning as it was written.
func withWant(t *testing.T, document string, got map[string]any) string {
	out, err := yaml.Marshal(map[string]any{"want": got})
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(document, "\nwant:")
	return strings.TrimRight(before, "\n") + "\n" + strings.TrimRight(string(out), "\n")
}

// outcome runs the case and returns what came of it, in the form that a file holds.
func (c *Case) outcome(d *resource.Declaration) (map[string]any, error) {
	w, err := newWriter(d, c)
	if err != nil {
		return nil, err
	}
	var old resource.Object
	switch {
	case c.Old != nil:
		if old, err = w.create(c.Old); err != nil {
			return nil, fmt.Errorf("create the old object: %w", err)
		}
	case c.Stored != nil:
		if old, err = w.store(c.Stored); err != nil {
			return nil, err
		}
	}
	held := maps.Clone(w.pools.taken)
	var obj resource.Object
	switch c.Do {
	case "create":
		obj, err = w.create(c.Obj)
	case "update":
		obj, err = w.update(c.Obj, old)
	case "status":
		obj, err = w.updateStatus(c.Obj, old)
	case "print":
		return w.print(c.Obj)
	default:
		return nil, fmt.Errorf("unknown verb %q", c.Do)
	}
	if refused, ok := err.(*refusal); ok {
		if !maps.Equal(held, w.pools.taken) {
			return nil, fmt.Errorf("refused with %v, and yet allocations went from %v to %v", refused, held, w.pools.taken)
		}
		return plain(map[string]any{"errors": refused.messages})
	}
	if err != nil {
		return nil, err
	}
	got := map[string]any{}
	if len(w.warnings) > 0 {
		got["warnings"] = w.warnings
	}
	return plain(got, shown(obj, c.Show))
}
