package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// gadgets defines a kind in a group of the test's own.
func gadgets(group string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets, singular: gadget, shortNames: [gd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        description: A thing of a certain size.
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: How large it is.}
              color: {type: string, default: blue}
              replicas: {type: integer}
          status: {type: object, properties: {replicas: {type: integer}}}
`, group)
}

func gadget(group, name, spec string) string {
	return fmt.Sprintf("apiVersion: %s/v1\nkind: Gadget\nmetadata: {name: %s}\nspec: %s\n", group, name, spec)
}

// undefine removes the kind with the test.
func (s *space) undefine(group string) {
	s.t.Cleanup(func() { s.kubectl("delete", "crd", "gadgets."+group, "--ignore-not-found") })
}

func TestCustomResources(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		group := s.name + ".example.com"
		s.failsIn(gadget(group, "g", "{size: 3}"), []string{"apply", "-f", "-"}, `no matches for kind "Gadget"`, "ensure CRDs are installed first")
		s.undefine(group)
		contains(t, "apply", s.apply(gadgets(group)), "customresourcedefinition.apiextensions.k8s.io/gadgets."+group+" created")
		s.kubectl("wait", "--for=condition=established", "crd/gadgets."+group, "--timeout=60s")
		contains(t, "apply", s.apply(gadget(group, "g", "{size: 3}")), "gadget."+group+"/g created")
		contains(t, "apply again", s.apply(gadget(group, "g", "{size: 3}")), "unchanged")
		s.failsIn(gadget(group, "h", "{size: 0}"), []string{"apply", "-f", "-"}, "spec.size in body should be greater than or equal to 1")
		s.failsIn(gadget(group, "h", "{size: 1, weight: 1}"), []string{"apply", "-f", "-"}, `unknown field "spec.weight"`)

		plural := "gadgets." + group
		row := strings.Fields(s.kubectl("get", plural))
		equal(t, "table", strings.Join(row, " "), "NAME SIZE g 3")
		equal(t, "color", s.kubectl("get", plural, "g", "-o", "jsonpath={.spec.color}"), "blue")
		contains(t, "explain", s.kubectl("explain", plural+".spec"), "KIND:       Gadget", "size\t<integer> -required-", "How large it is.")
		contains(t, "resources", s.kubectl("api-resources", "--api-group="+group, "--no-headers"), "gadgets   gd    "+group+"/v1   true   Gadget")
		s.kubectl("scale", plural+"/g", "--replicas=4")
		s.kubectl("patch", plural, "g", "--type=merge", "--subresource=status", "-p", `{"status":{"replicas":4}}`)
		s.kubectl("wait", plural+"/g", "--for=jsonpath={.status.replicas}=4", "--timeout=60s")
		equal(t, "replicas", s.kubectl("get", plural, "g", "-o", "jsonpath={.spec.replicas}"), "4")
		contains(t, "description", s.kubectl("describe", plural, "g"), "Kind:         Gadget", "Replicas:  4")

		// It has dependents like any other object, and goes with its namespace.
		uid := s.kubectl("get", plural, "g", "-o", "jsonpath={.metadata.uid}")
		s.apply(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned, ownerReferences: [{apiVersion: %s/v1, kind: Gadget, name: g, uid: %s}]}\n", group, uid))
		s.kubectl("delete", plural, "g")
		s.kubectl("wait", "--for=delete", "configmap/owned", "--timeout=60s")
		other := s.name + "-other"
		s.kubectl("create", "namespace", other)
		s.kubectlIn(gadget(group, "g", "{size: 1}"), "apply", "--namespace", other, "-f", "-")
		s.kubectl("delete", "namespace", other)
		equal(t, "left", s.kubectl("get", plural, "-A", "-o", "name"), "")
		s.kubectl("delete", "crd", plural)
		s.fails([]string{"get", plural}, "the server doesn't have a resource type")
	})
}

// What a chart has in crds/ is there before its templates are.
func TestHelmDefinesKinds(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	group := s.name + ".example.com"
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Chart.yaml":            "apiVersion: v2\nname: operator\nversion: 1.0.0\n",
		"crds/gadgets.yaml":     gadgets(group),
		"templates/gadget.yaml": gadget(group, "one", "{size: {{ .Values.size }}}"),
		"values.yaml":           "size: 1\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.undefine(group)
	s.helm("install", "operator", dir, "--wait", "--timeout=3m")
	s.helm("upgrade", "operator", dir, "--set=size=2", "--wait", "--timeout=3m")
	equal(t, "size", s.kubectl("get", "gadgets."+group, "one", "-o", "jsonpath={.spec.size}"), "2")
	s.helm("uninstall", "operator", "--wait", "--timeout=3m")
	equal(t, "left", s.kubectl("get", "gadgets."+group, "-o", "name"), "")
	// Helm leaves what defines kinds.
	s.kubectl("get", "crd", "gadgets."+group)
}
