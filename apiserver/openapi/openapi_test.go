package openapi

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/kube-openapi/pkg/common"
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

// Those who need the definitions soon after each other share them; they do not stay in memory after that, and can be had
// again.
func TestDefinitionsAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Config{Title: "t", Version: "v1", Scheme: sampleScheme})
		get := func() (c *common.OpenAPIV3Config) {
			t.Helper()
			err := d.withDefinitions(func(config *common.OpenAPIV3Config) error {
				c = config
				return nil
			})
			if err != nil || len(c.Definitions) == 0 && c.GetDefinitions == nil {
				t.Fatalf("there are no definitions: %v", err)
			}
			return c
		}
		first := get()
		for range 3 {
			time.Sleep(keepFor * 2 / 3) // in the bubble's time
			if get() != first {
				t.Error("those who need them soon after each other have copies of their own")
			}
		}
		time.Sleep(keepFor + 1)
		synctest.Wait()
		if d.recent != nil {
			t.Error("nobody has used the definitions for long, and they are still in memory")
		}
		if get() == first {
			t.Error("what was let go is given out again")
		}
	})
}
