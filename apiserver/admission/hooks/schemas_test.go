package hooks

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/openapi"
)

// published is what a server publishes of one version of a group.
type published struct {
	place, property string
	reads           int
}

func (p *published) Paths() (map[string]openapi.GroupVersion, error) {
	return map[string]openapi.GroupVersion{"apis/example.com/v1": p}, nil
}

func (p *published) ServerRelativeURL() string { return p.place }

func (p *published) Schema(string) ([]byte, error) {
	p.reads++
	return fmt.Appendf(nil, `{"openapi":"3.0.0","components":{"schemas":{"W":{"type":"object","properties":{%q:{"type":"string"},
"apiVersion":{"type":"string"},"kind":{"type":"string"}},
"x-kubernetes-group-version-kind":[{"group":"example.com","version":"v1","kind":"W"}]}}}}`, p.property), nil
}

// A version's schema is read once, and again when it has changed.
func TestSchemasFollowWhatIsPublished(t *testing.T) {
	p := &published{place: "/openapi/v3/apis/example.com/v1?hash=1", property: "color"}
	s := newSchemas(p)
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "W"}
	takes := func(property string) bool {
		t.Helper()
		types := s.GetTypeConverter(gvk)
		if types == nil {
			t.Fatal("the kind has no schema")
		}
		_, err := types.ObjectToTyped(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "W", property: "x"}})
		return err == nil
	}
	for range 3 {
		if !takes("color") || takes("size") {
			t.Error("the first schema is not what was published")
		}
	}
	p.place, p.property = "/openapi/v3/apis/example.com/v1?hash=2", "size"
	if takes("color") || !takes("size") {
		t.Error("the schema is that of before its change")
	}
	if p.reads != 2 {
		t.Errorf("two schemas were read %d times", p.reads)
	}
	if types := s.GetTypeConverter(schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "W"}); types != nil {
		t.Error("a kind of a group that is not published has a schema")
	}
}
