package e2e

import (
	"strings"
	"testing"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		file := write(t, "app.conf", "listen 80;\n")
		for _, c := range []struct{ args, name string }{
			{"configmap c --from-literal=a=b --from-file=" + file, "configmap/c"},
			{"secret generic g --from-literal=password=s3cret", "secret/g"},
			{"serviceaccount robot", "serviceaccount/robot"},
			{"role reader --verb=get,list --resource=pods,pods/log", "role.rbac.authorization.k8s.io/reader"},
			{"rolebinding readers --role=reader --serviceaccount=" + s.name + ":robot", "rolebinding.rbac.authorization.k8s.io/readers"},
			{"service clusterip web --tcp=80:8080", "service/web"},
			{"service nodeport outside --tcp=80", "service/outside"},
			{"service externalname away --external-name=example.com", "service/away"},
		} {
			equal(t, "create "+c.args, s.kubectl(append([]string{"create"}, strings.Fields(c.args)...)...), c.name+" created\n")
		}
		equal(t, "config map", s.kubectl("get", "configmap", "c", "-o", `jsonpath={.data.a}{.data.app\.conf}`), "blisten 80;\n")
		equal(t, "secret", s.kubectl("get", "secret", "g", "-o", "jsonpath={.type}{.data.password}"), "OpaqueczNjcmV0")
		contains(t, "services", s.kubectl("get", "services", "-o", "wide"), "ClusterIP", "NodePort", "ExternalName", "example.com", "80:3")
		s.fails([]string{"create", "configmap", "c"}, `configmaps "c" already exists`)
		token := s.kubectl("create", "token", "robot", "--duration=20m")
		equal(t, "parts of the token", strings.Count(token, "."), 2)
		me := s.kubectl("auth", "whoami", "--token="+strings.TrimSpace(token), "-o", "jsonpath={.status.userInfo.username}")
		// The administrator's certificate speaks too, and comes first where both are given.
		if me != "system:serviceaccount:"+s.name+":robot" && me != "kubernetes-admin" {
			t.Logf("with a token and a certificate the user is %s", me)
		}

		for i := range 3 {
			name := s.kubectlIn("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: gen-}\n", "create", "-f", "-")
			if !strings.HasPrefix(name, "configmap/gen-") || len(name) != len("configmap/gen-xxxxx created\n") {
				t.Errorf("name %d: %q", i, name)
			}
		}
		equal(t, "dry run", s.kubectl("create", "configmap", "dry", "--dry-run=server", "-o", "name"), "configmap/dry\n")
		s.fails([]string{"get", "configmap", "dry"}, "NotFound")
	})
}

func TestValidation(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		pod := busybox("v", "true", "")
		unknown := strings.Replace(pod, "spec:\n", "spec:\n  colour: red\n", 1)
		s.failsIn(unknown, []string{"apply", "-f", "-"}, `strict decoding error: unknown field "spec.colour"`)
		s.failsIn(unknown, []string{"create", "--validate=strict", "-f", "-"}, `unknown field "spec.colour"`)
		warn := s.command("create", "--validate=warn", "--dry-run=server", "-f", "-")
		warn.Stdin = strings.NewReader(unknown)
		r := s.run(warn)
		equal(t, "exit code with a warning", r.code, 0)
		contains(t, "warning", r.stderr, `Warning: unknown field "spec.colour"`)
		ignore := s.command("create", "--validate=ignore", "--dry-run=server", "-f", "-")
		ignore.Stdin = strings.NewReader(unknown)
		r = s.run(ignore)
		equal(t, "exit code when ignored", r.code, 0)
		equal(t, "silence", r.stderr, "")

		s.failsIn(strings.Replace(pod, "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: soon", 1), []string{"apply", "-f", "-"}, "terminationGracePeriodSeconds")
		// kubectl itself drops all but the last of a key; the server refuses.
		s.failsIn(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1"},"data":{"a":"2"}}`,
			[]string{"create", "--raw", "/api/v1/namespaces/" + s.name + "/configmaps?fieldValidation=Strict", "-f", "-"}, `duplicate field "data"`)
		s.failsIn("kind: [\n", []string{"apply", "-f", "-"}, "yaml")
		s.failsIn("just words\n", []string{"apply", "-f", "-"}, "error")
		s.failsIn("apiVersion: v1\nkind: Pod\nmetadata: {name: UPPER}\nspec: {containers: [{name: a, image: b}, {name: a, image: b}], restartPolicy: Often}\n", []string{"apply", "-f", "-"},
			`The Pod "UPPER" is invalid`, `metadata.name: Invalid value: "UPPER"`, `spec.containers[1].name: Duplicate value: "a"`,
			`spec.restartPolicy: Unsupported value: "Often": supported values: "Always", "OnFailure", "Never"`)
		s.failsIn("apiVersion: v1\nkind: Pod\nmetadata: {name: v}\nspec: {containers: []}\n", []string{"apply", "-f", "-"}, "spec.containers: Required value")
		s.failsIn("apiVersion: v1\nkind: Pod\nmetadata: {name: v}\nspec: {containers: [{name: a, image: b, resources: {limits: {cpu: lots}}}]}\n", []string{"apply", "-f", "-"}, "quantities must match the regular expression")
		large := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata: {k: " + strings.Repeat("x", 1<<20+1) + "}\n"
		s.failsIn(large, []string{"create", "-f", "-"}, "Too long: may not be more than 1048576 bytes")
		s.failsIn(strings.Replace(large, strings.Repeat("x", 1<<20), strings.Repeat("x", 4<<20), 1), []string{"create", "-f", "-"}, "limit is 3145728")
		s.fails([]string{"run", "v", "--image=UPPER/case::x"}, "UPPER/case::x")
	})
}
