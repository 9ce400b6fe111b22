// Package peapod_test holds the rules of the house that are about the whole tree: who may import whom, and that its plan is true.
package peapod_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// alike are the parts that have one folder for each of many things, which the plan does not list.
var alike = []string{"api", "cli", "controllers", "internal"}

// TestThePlanIsTrue: docs/ARCHITECTURE.md names every folder of the house at its part, and none that there is not.
func TestThePlanIsTrue(t *testing.T) {
	text, err := os.ReadFile("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, plan, _ := strings.Cut(string(text), "## The house\n\n```\n")
	plan, _, found := strings.Cut(plan, "\n```\n")
	if !found {
		t.Fatal("docs/ARCHITECTURE.md has no plan of the house")
	}
	named := map[string]string{} // part -> what is said of it
	part := ""
	for line := range strings.Lines(plan) {
		if name, said, begins := strings.Cut(line, "/ "); begins && !strings.HasPrefix(line, " ") {
			part, line = name, said
		}
		named[part] += line
	}
	for _, part := range folders(t, ".") {
		said, is := named[part]
		if !is && part != "docs" && part != "examples" && part != "bin" {
			t.Errorf("%s/ is not in the plan", part)
		}
		delete(named, part)
		there := folders(t, part)
		for _, m := range regexp.MustCompile(`([a-z0-9]+)/[\s,;:.)]`).FindAllStringSubmatch(said, -1) {
			if !slices.Contains(there, m[1]) && !slices.Contains(folders(t, "."), m[1]) {
				t.Errorf("the plan has %s/%s, which there is not", part, m[1])
			}
		}
		if slices.Contains(alike, part) {
			continue
		}
		for _, name := range there {
			if is && !regexp.MustCompile(`\b`+name+`/[\s,;:.)]`).MatchString(said) {
				t.Errorf("%s/%s is not in the plan", part, name)
			}
		}
	}
	for part := range named {
		t.Errorf("the plan has %s/, which there is not", part)
	}
}

// folders are those in a folder, without hidden ones and those for tests' data.
func folders(t *testing.T, in string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "testdata" {
			names = append(names, e.Name())
		}
	}
	return names
}
