package pod

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDiagram keeps LIFECYCLE.md's picture equal to the table.
func TestDiagram(t *testing.T) {
	const file = "LIFECYCLE.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), "```mermaid\n")
	_, tail, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 {
		t.Fatalf("%s holds no mermaid block", file)
	}
	want := head + "```mermaid\n" + diagram() + "```\n" + tail
	if want == string(doc) {
		return
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s does not show the table; run go test -rewrite", file)
}

// diagram draws the machine as a Mermaid state diagram; LIFECYCLE.md holds it.
func diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> New\n")
	for _, t := range transitions() {
		fmt.Fprintf(&b, "    %s --> %s: %s (%s)\n", t.from, t.to, t.on, t.why)
	}
	b.WriteString("    Gone --> [*]\n")
	return b.String()
}

// TestMachine checks the table as a whole: every state can be reached and left
// for Gone, and all that is not in the table is an error.
func TestMachine(t *testing.T) {
	legal := map[State]map[Event]State{}
	for _, tr := range transitions() {
		if legal[tr.from] == nil {
			legal[tr.from] = map[Event]State{}
		}
		if _, twice := legal[tr.from][tr.on]; twice {
			t.Errorf("%s on %s is there twice", tr.from, tr.on)
		}
		legal[tr.from][tr.on] = tr.to
	}
	for s := New; s <= Gone; s++ {
		for e := Admit; e <= Removed; e++ {
			got, err := Next(s, e)
			want, ok := legal[s][e]
			var illegal *TransitionError
			switch {
			case ok && (err != nil || got != want):
				t.Errorf("Next(%s, %s) = %s, %v; want %s", s, e, got, err, want)
			case !ok && !errors.As(err, &illegal):
				t.Errorf("Next(%s, %s) = %s, %v; want an error", s, e, got, err)
			}
		}
		if !reaches(legal, s, map[State]bool{}) {
			t.Errorf("from %s there is no way to Gone", s)
		}
	}
}

func reaches(legal map[State]map[Event]State, s State, seen map[State]bool) bool {
	if s == Gone {
		return true
	}
	if seen[s] {
		return false
	}
	seen[s] = true
	for _, to := range legal[s] {
		if reaches(legal, to, seen) {
			return true
		}
	}
	return false
}
