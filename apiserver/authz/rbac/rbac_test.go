package rbac

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "write the answers into testdata")

// TestScenarios asks the questions of each file in testdata. A file holds objects in YAML, then a line of "===", then
// questions, each followed by its answer:
//
//	USER[,GROUP...] VERB RESOURCE[/SUB][.GROUP] [NAME] [in NAMESPACE]
//	USER[,GROUP...] VERB /PATH
//	USER[,GROUP...] rules in NAMESPACE
//	USER[,GROUP...] grants KIND ROLE [in NAMESPACE]
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			objects, questions, found := strings.Cut(string(content), "===\n")
			if !found {
				t.Fatal("no line of ===")
			}
			e := load(t, objects)
			var out strings.Builder
			out.WriteString(objects + "===\n")
			for line := range strings.Lines(questions) {
				line = strings.TrimRight(line, "\n")
				if strings.HasPrefix(line, "  ") {
					continue
				}
				out.WriteString(line + "\n")
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				for l := range strings.Lines(answer(t, e, line)) {
					out.WriteString("  " + strings.TrimRight(l, "\n") + "\n")
				}
			}
			if *rewrite {
				if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if out.String() != string(content) {
				t.Errorf("got\n%s", out.String())
			}
		})
	}
}

func load(t *testing.T, objects string) *Evaluator {
	t.Helper()
	store := func(i cache.Indexers) cache.Indexer { return cache.NewIndexer(cache.MetaNamespaceKeyFunc, i) }
	cfg := Config{Roles: store(nil), RoleBindings: store(SubjectIndexers()), ClusterRoles: store(nil), ClusterRoleBindings: store(SubjectIndexers())}
	for _, doc := range strings.Split(objects, "---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		into := map[string]struct {
			store cache.Indexer
			obj   any
		}{"Role": {cfg.Roles, &rbacv1.Role{}}, "ClusterRole": {cfg.ClusterRoles, &rbacv1.ClusterRole{}},
			"RoleBinding": {cfg.RoleBindings, &rbacv1.RoleBinding{}}, "ClusterRoleBinding": {cfg.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{}}}[kind.Kind]
		if into.obj == nil {
			t.Fatalf("unknown kind in %s", doc)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into.obj); err != nil {
			t.Fatal(err)
		}
		if err := into.store.Add(into.obj); err != nil {
			t.Fatal(err)
		}
	}
	return New(cfg)
}

func answer(t *testing.T, e *Evaluator, question string) string {
	t.Helper()
	words := strings.Fields(question)
	names := strings.Split(words[0], ",")
	u := &user.DefaultInfo{Name: names[0], Groups: names[1:]}
	namespace := ""
	if n := len(words); n > 2 && words[n-2] == "in" {
		namespace, words = words[n-1], words[:n-2]
	}
	switch words[1] {
	case "rules":
		rules, err := e.Rules(u, namespace)
		var b bytes.Buffer
		for _, r := range rules {
			fmt.Fprintln(&b, describeRule(r))
		}
		if err != nil {
			fmt.Fprintln(&b, "error:", err)
		}
		return b.String()
	case "grants":
		rules, err := e.RoleRules(rbacv1.RoleRef{Kind: words[2], Name: words[3]}, namespace)
		if err == nil {
			err = e.ConfirmNoEscalation(u, namespace, rules)
		}
		if err != nil {
			return "no: " + err.Error()
		}
		return "yes"
	}
	a := authorizer.AttributesRecord{User: u, Verb: words[1], Namespace: namespace}
	if strings.HasPrefix(words[2], "/") {
		a.Path = words[2]
	} else {
		a.ResourceRequest = true
		a.Resource, a.APIGroup, _ = strings.Cut(words[2], ".")
		a.Resource, a.Subresource, _ = strings.Cut(a.Resource, "/")
		if len(words) > 3 {
			a.Name = words[3]
		}
	}
	decision, reason, err := e.Authorize(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	text := map[authorizer.Decision]string{authorizer.DecisionAllow: "yes", authorizer.DecisionNoOpinion: "no", authorizer.DecisionDeny: "deny"}[decision]
	if reason != "" {
		text += ": " + reason
	}
	return text
}
