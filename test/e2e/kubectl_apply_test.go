package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {app: x}}\ndata: {colour: red, size: small}\n"

func TestApply(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		file := write(t, "settings.yaml", settings)
		equal(t, "from a file", s.kubectl("apply", "-f", file), "configmap/settings created\n")
		equal(t, "again", s.kubectl("apply", "-f", file), "configmap/settings unchanged\n")
		equal(t, "from stdin", s.kubectlIn(strings.Replace(settings, "colour: red, ", "", 1), "apply", "-f", "-"), "configmap/settings configured\n")
		equal(t, "a key that is no longer declared", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.data}"), `{"size":"small"}`)

		dir := t.TempDir()
		for name, text := range map[string]string{
			"a.yaml": settings, "b.json": `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"k":"v"}}`, "ignored.txt": "not a manifest",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "from a directory", s.kubectl("apply", "-f", dir), "configmap/settings configured\nsecret/s created\n")
		equal(t, "with kustomize", s.kubectl("apply", "-k", kustomization(t)), "configmap/kustomized-settings created\n")

		web := httptest.NewServer(http.FileServer(http.Dir(dir)))
		defer web.Close()
		equal(t, "from a URL", s.kubectl("apply", "-f", web.URL+"/a.yaml"), "configmap/settings unchanged\n")
		s.fails([]string{"apply", "-f", web.URL + "/none.yaml"}, "404")
		s.fails([]string{"apply", "-f", filepath.Join(dir, "none.yaml")}, "does not exist")

		contains(t, "dry run of the client", s.kubectl("apply", "-f", file, "--dry-run=client"), " (dry run)\n")
		equal(t, "dry run of the server", s.kubectlIn(strings.Replace(settings, "name: settings", "name: dry", 1), "apply", "--dry-run=server", "-f", "-"), "configmap/dry created (server dry run)\n")
		s.fails([]string{"get", "configmap", "dry"}, "NotFound")

		changed := write(t, "changed.yaml", strings.Replace(settings, "red", "blue", 1))
		d := s.try("diff", "-f", changed)
		equal(t, "exit code of a difference", d.code, 1)
		contains(t, "diff", d.stdout, "-  colour: red", "+  colour: blue")
		equal(t, "exit code of none", s.try("diff", "-f", file).code, 0)

		s.kubectl("apply", "-f", dir, "--prune", "-l", "app=x", "--prune-allowlist=core/v1/ConfigMap")
		equal(t, "last applied", strings.Contains(s.kubectl("apply", "view-last-applied", "configmap/settings"), "colour: red"), true)
	})
}

func kustomization(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"settings.yaml": settings, "kustomization.yaml": "namePrefix: kustomized-\nresources: [settings.yaml]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestServerSideApply(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		apply := func(manager, text string, more ...string) []string {
			return append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", write(t, "m.yaml", text)}, more...)
		}
		equal(t, "first", s.kubectl(apply("one", settings)...), "configmap/settings serverside-applied\n")
		equal(t, "same again", s.kubectl(apply("two", settings)...), "configmap/settings serverside-applied\n")
		blue := strings.Replace(settings, "red", "blue", 1)
		s.fails(apply("two", blue), `Apply failed with 1 conflict: conflict with "one"`, ".data.colour", "--force-conflicts")
		s.kubectl(apply("two", blue, "--force-conflicts")...)
		equal(t, "colour", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.colour}"), "blue")
		// What its last owner no longer declares goes.
		s.kubectl(apply("two", strings.Replace(settings, "colour: red, ", "", 1))...)
		equal(t, "data", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.data}"), `{"size":"small"}`)
		managed := s.kubectl("get", "configmap", "settings", "-o", "yaml", "--show-managed-fields")
		contains(t, "managed fields", managed, "manager: one", "manager: two", "operation: Apply", "f:size: {}")
		if y := s.kubectl("get", "configmap", "settings", "-o", "yaml"); strings.Contains(y, "managedFields") {
			t.Errorf("managedFields are shown unasked:\n%s", y)
		}
	})
}

func TestPatchEditReplace(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(settings)
		data := func() string { return s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.data}") }
		equal(t, "merge", s.kubectl("patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"colour":null,"new":"1"}}`), "configmap/settings patched\n")
		equal(t, "data", data(), `{"new":"1","size":"small"}`)
		s.kubectl("patch", "configmap", "settings", "--type=json", "-p", `[{"op":"test","path":"/data/new","value":"1"},{"op":"replace","path":"/data/new","value":"2"}]`)
		equal(t, "data", data(), `{"new":"2","size":"small"}`)
		s.fails([]string{"patch", "configmap", "settings", "--type=json", "-p", `[{"op":"test","path":"/data/new","value":"1"}]`}, "the server rejected our request due to an error in our request")
		equal(t, "no change", s.kubectl("patch", "configmap", "settings", "-p", `{"data":{"new":"2"}}`), "configmap/settings patched (no change)\n")

		s.apply(busybox("p", forever, "app: p"))
		s.kubectl("patch", "pod", "p", "-p", `{"metadata":{"labels":{"more":"yes"}},"spec":{"tolerations":[{"key":"k","operator":"Exists"}]}}`)
		contains(t, "tolerations are added", s.kubectl("get", "pod", "p", "-o", "jsonpath={.spec.tolerations[*].key}"), "k")
		s.kubectl("patch", "pod", "p", "-p", `{"spec":{"containers":[{"name":"main","image":"peapod.local/hello:latest"}]}}`)
		equal(t, "containers are merged by name", s.kubectl("get", "pod", "p", "-o", "jsonpath={.spec.containers[*].image}{.spec.containers[0].command[0]}"), "peapod.local/hello:latestsh")
		s.fails([]string{"patch", "pod", "p", "-p", `{"spec":{"nodeName":"elsewhere"}}`}, "is invalid", "pod updates may not change fields other than")
		equal(t, "status", s.kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", `{"status":{"nominatedNodeName":""}}`), "pod/p patched (no change)\n")

		edit := s.command("edit", "configmap", "settings")
		edit.Env = append(edit.Env, "KUBE_EDITOR=sed -i s/small/large/")
		r := s.run(edit)
		equal(t, "edit", r.stdout+r.stderr, "configmap/settings edited\n")
		equal(t, "data", data(), `{"new":"2","size":"large"}`)
		unchanged := s.command("edit", "configmap", "settings")
		unchanged.Env = append(unchanged.Env, "KUBE_EDITOR=true")
		contains(t, "edit of nothing", s.run(unchanged).stderr, "Edit cancelled, no changes made.")

		equal(t, "replace", s.kubectlIn(settings, "replace", "-f", "-"), "configmap/settings replaced\n")
		equal(t, "data", data(), `{"colour":"red","size":"small"}`)
		stale := strings.Replace(s.kubectl("get", "configmap", "settings", "-o", "json"), `"red"`, `"green"`, 1)
		s.kubectl("label", "configmap", "settings", "moved=on")
		s.failsIn(stale, []string{"replace", "-f", "-"}, "Conflict", "the object has been modified; please apply your changes to the latest version and try again")
		s.failsIn(strings.Replace(settings, "name: settings", "name: none", 1), []string{"replace", "-f", "-"}, "NotFound")
		contains(t, "forced", s.kubectlIn(settings, "replace", "--force", "-f", "-"), `configmap "settings" deleted`, "configmap/settings replaced\n")
	})
}

func TestLabelAnnotate(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(settings)
		equal(t, "label", s.kubectl("label", "configmap", "settings", "a=1", "b=2"), "configmap/settings labeled\n")
		s.fails([]string{"label", "configmap", "settings", "a=9"}, "--overwrite is false")
		s.kubectl("label", "configmap", "settings", "a=9", "b-", "--overwrite")
		equal(t, "labels", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.metadata.labels}"), `{"a":"9","app":"x"}`)
		s.fails([]string{"label", "configmap", "settings", "bad key=1"}, "name part must consist of alphanumeric characters")
		equal(t, "annotate", s.kubectl("annotate", "configmap", "settings", "note=some words"), "configmap/settings annotated\n")
		equal(t, "annotation", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.metadata.annotations.note}"), "some words")
		s.kubectl("annotate", "configmap", "settings", "note-")
		equal(t, "annotation gone", s.kubectl("get", "configmap", "settings", "-o", "jsonpath={.metadata.annotations.note}"), "")
	})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		// These do not end when told to, only when killed.
		for _, n := range []string{"now", "forced", "graceful", "l1", "l2", "all1", "all2"} {
			s.apply(busybox(n, "trap '' TERM; echo up; while :; do sleep 1; done", "set: "+strings.TrimRight(n, "12")))
		}
		s.ready("now", "forced", "graceful", "l1", "l2", "all1", "all2")
		// Newer kubectls say the namespace too.
		deleted := func(args ...string) {
			contains(t, strings.Join(args, " "), s.kubectl(args...), `pod "`+args[2]+`"`, "deleted")
		}
		deleted("delete", "pod", "now", "--now")
		deleted("delete", "pod", "forced", "--force", "--grace-period=0")
		deleted("delete", "pod", "graceful", "--grace-period=1")
		s.event("graceful", "Killing", "Stopping container main")
		contains(t, "-l", s.kubectl("delete", "pods", "-l", "set=l"), `pod "l1"`, `pod "l2"`)
		contains(t, "--field-selector", s.kubectl("delete", "pods", "--field-selector=metadata.name=all1"), `pod "all1"`)
		contains(t, "--all", s.kubectl("delete", "pods", "--all"), `pod "all2"`)
		equal(t, "left", s.kubectl("get", "pods", "-o", "name"), "")
		s.fails([]string{"delete", "pod", "now"}, `pods "now" not found`)
		s.kubectl("delete", "pod", "now", "--ignore-not-found")

		s.kubectl("create", "configmap", "held")
		s.kubectl("patch", "configmap", "held", "-p", `{"metadata":{"finalizers":["example.com/mine"]}}`)
		s.kubectl("delete", "configmap", "held", "--wait=false")
		wait := s.start("wait", "--for=delete", "configmap/held", "--timeout=60s")
		if s.kubectl("get", "configmap", "held", "-o", "jsonpath={.metadata.deletionTimestamp}") == "" {
			t.Error("deleted, but there is no deletionTimestamp")
		}
		s.kubectl("patch", "configmap", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		equal(t, "wait for deletion", wait.end().code, 0)
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		ready := s.start("wait", "--for=create", "pod/w", "--timeout=60s")
		s.apply(busybox("w", forever, "app: w"))
		equal(t, "wait for creation", ready.end().code, 0)
		equal(t, "condition", s.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=w", "--timeout=60s"), "pod/w condition met\n")
		equal(t, "jsonpath", s.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/w", "--timeout=60s"), "pod/w condition met\n")
		s.fails([]string{"wait", "--for=condition=NeverSo", "pod/w", "--timeout=50ms"}, "timed out waiting for the condition on pods/w")
	})
}
