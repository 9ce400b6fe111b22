package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peapod/peapod/test/e2e/cluster"
)

const chart = examples + "chart"

// helmLimit ends a helm command that waits for what does not come; helm's own limit comes first and says more.
const helmLimit = 4 * time.Minute

// helmBinary builds helm for the first test that wants it.
var helmBinary = sync.OnceValues(func() (string, error) { return cluster.BuildHelm(context.Background()) })

// tryHelm runs helm in the space's namespace.
func (s *space) tryHelm(args ...string) result {
	s.t.Helper()
	binary, err := helmBinary()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(s.cluster.Helm(within(s.t, helmLimit), binary, s.name, args...))
}

// helm runs a command that must succeed and returns its standard output.
func (s *space) helm(args ...string) string {
	s.t.Helper()
	r := s.tryHelm(args...)
	if r.code != 0 {
		s.t.Fatalf("helm %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// helmFails runs a command that must fail with this text on standard error.
func (s *space) helmFails(text string, args ...string) {
	s.t.Helper()
	r := s.tryHelm(args...)
	if r.code == 0 {
		s.t.Fatalf("helm %s succeeded:\n%s%s", strings.Join(args, " "), r.stdout, r.stderr)
	}
	contains(s.t, "helm "+args[0], r.stderr, text)
}

// page is what the Service of that name answers to this machine.
func (s *space) page(service string) string {
	s.t.Helper()
	ip := s.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
	r, err := http.NewRequestWithContext(within(s.t, longest), http.MethodGet, "http://"+ip+"/", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

// releases is what history says of each revision: its status and how its description begins.
func (s *space) releases(name string) string {
	s.t.Helper()
	var history []struct {
		Revision            int
		Status, Description string
	}
	if err := json.Unmarshal([]byte(s.helm("history", name, "-o", "json")), &history); err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range history {
		description, _, _ := strings.Cut(r.Description, ":")
		fmt.Fprintf(&out, "%d %s: %s\n", r.Revision, r.Status, description)
	}
	return out.String()
}

// A release through its whole life, written by server-side apply and by the three-way merge of older Helms.
func TestHelm(t *testing.T) {
	t.Parallel()
	for way, serverSide := range map[string]string{"server-side": "--server-side=true", "client-side": "--server-side=false"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			installed := s.helm("install", "page", chart, "--wait", "--timeout=3m", "--set=ingress.enabled=true", serverSide)
			contains(t, "install", installed, "STATUS: deployed", "http://page."+s.name+".svc.cluster.local:80/")
			// helm has waited, so this is so at once.
			row := strings.Fields(s.kubectl("get", "deployment", "page", "--no-headers"))
			equal(t, "row", strings.Join(row[:4], " "), "page 2/2 2 2")
			equal(t, "page", s.page("page"), "Hello from a chart")
			equal(t, "host", s.kubectl("get", "ingress", "page", "-o", "jsonpath={.spec.rules[0].host}"), "page.example")
			s.fails([]string{"get", "job", "page-check"}, "not found") // The hook went when it had succeeded.
			account := "--as=system:serviceaccount:" + s.name + ":page"
			equal(t, "its right", s.kubectl("auth", "can-i", "get", "configmap/page", account), "yes\n")
			s.fails([]string{"auth", "can-i", "get", "configmap/other", account})

			contains(t, "list", s.helm("list"), "page\t"+s.name, "deployed", "page-1.0.0")
			contains(t, "status", s.helm("status", "page"), "STATUS: deployed", "==> v1/Deployment", "page   2/2")
			contains(t, "values", s.helm("get", "values", "page", "--all"), "text: Hello from a chart", "enabled: true")
			contains(t, "hooks", s.helm("get", "hooks", "page"), "helm.sh/hook: pre-install,pre-upgrade")
			contains(t, "test", s.helm("test", "page", "--logs", "--timeout=3m"), "Phase:          Succeeded", "Hello from a chart")

			s.helm("upgrade", "page", chart, "--reuse-values", "--set=text=second", "--set=replicas=3", "--wait", "--timeout=3m")
			equal(t, "page", s.page("page"), "second")
			s.upgradesThatFail()
			s.helm("rollback", "page", "1", "--wait", "--timeout=3m")
			equal(t, "page", s.page("page"), "Hello from a chart")
			equal(t, "Pods", len(s.names("app.kubernetes.io/instance=page")), 2)
			equal(t, "releases", s.releases("page"), strings.Join([]string{
				"1 superseded: Install complete",
				"2 superseded: Upgrade complete",
				`3 failed: Upgrade "page" failed`,
				"4 superseded: Rollback to 2",
				`5 failed: Upgrade "page" failed`,
				"6 deployed: Rollback to 1",
			}, "\n")+"\n")

			s.helm("uninstall", "page", "--wait", "--timeout=3m", "--cascade=foreground")
			equal(t, "left", s.kubectl("get", "deployment,rs,pod,service,endpointslice,configmap,serviceaccount,role,rolebinding,ingress,secret",
				"-l", "app.kubernetes.io/instance=page", "-o", "name"), "")
			equal(t, "releases left", s.helm("list", "--short"), "")
		})
	}
}

// upgradesThatFail tries what must not take effect on release 2: a hook that fails, Pods that never get ready, values that the
// schema refuses.
func (s *space) upgradesThatFail() {
	s.t.Helper()
	s.helmFails("has been rolled back", "upgrade", "page", chart, "--reuse-values", "--set=text=third", "--set-string=check.command={false}",
		"--wait", "--timeout=3m", "--rollback-on-failure")
	equal(s.t, "page after a failed hook", s.page("page"), "second")
	// No Pod of the new template becomes ready; those of the old go on.
	s.helmFails("page not ready", "upgrade", "page", chart, "--reuse-values", "--set=image.tag=none", "--wait", "--timeout=3s")
	equal(s.t, "page while Pods do not start", s.page("page"), "second")
	s.helmFails("replicas", "upgrade", "page", chart, "--reuse-values", "--set=replicas=-1")
}

// A package of the chart, rendered without a cluster and installed under another name by upgrade.
func TestHelmPackage(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := t.TempDir()
	s.helm("package", chart, "--destination", dir)
	archive := filepath.Join(dir, "page-1.0.0.tgz")
	rendered := s.helm("template", "other", archive, "--set=ingress.enabled=true")
	contains(t, "template", rendered, "kind: Deployment", "kind: Service", "kind: Ingress", "kind: Job", "name: other-answers")
	s.kubectlIn(rendered, "apply", "--dry-run=server", "-f", "-")
	s.helm("upgrade", "--install", "other", archive, "--wait", "--timeout=3m", "--set=replicas=1")
	equal(t, "page", s.page("other"), "Hello from a chart")
	s.helmFails("cannot reuse a name that is still in use", "install", "other", archive)
	s.helm("uninstall", "other", "--wait", "--timeout=3m")
	s.helmFails("release: not found", "status", "other")
}
