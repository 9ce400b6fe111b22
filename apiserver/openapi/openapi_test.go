package openapi

import (
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// A definition that refers to one that is not there breaks the documents of its whole group.
func TestNoDanglingReferences(t *testing.T) {
	definitions := GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef("#/" + path) })
	if len(definitions) < 500 {
		t.Errorf("only %d definitions", len(definitions))
	}
	for name, d := range definitions {
		for _, needed := range d.Dependencies {
			if _, ok := definitions[needed]; !ok {
				t.Errorf("%s refers to %s, whose package generate.sh does not list", name, needed)
			}
		}
	}
}

func TestGroupVersion(t *testing.T) {
	for root, want := range map[string][2]string{"api/v1": {"", "v1"}, "apis/apps/v1": {"apps", "v1"}} {
		if g, v, ok := groupVersion(root); !ok || g != want[0] || v != want[1] {
			t.Errorf("%s: got %q %q", root, g, v)
		}
	}
	for _, root := range []string{"version", "apis", "apis/apps", ".well-known/openid-configuration"} {
		if _, _, ok := groupVersion(root); ok {
			t.Errorf("%s was taken for a group version", root)
		}
	}
}
