package scenario

import (
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/api/resource"
)

// shown is the object, or those of its fields that paths name ("spec.ports").
func shown(obj resource.Object, paths []string) map[string]any {
	all, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	if len(paths) == 0 {
		unstructured.RemoveNestedField(all, "metadata", "creationTimestamp")
		unstructured.RemoveNestedField(all, "metadata", "resourceVersion")
		return map[string]any{"object": all}
	}
	some := map[string]any{}
	for _, path := range paths {
		value, ok, err := unstructured.NestedFieldNoCopy(all, strings.Split(path, ".")...)
		switch {
		case err != nil:
			value = err.Error()
		case !ok:
			value = nil
		}
		some[path] = value
	}
	return some
}

// plain merges the parts and brings their values to the types that a YAML file gives.
func plain(parts ...map[string]any) (map[string]any, error) {
	whole := map[string]any{}
	for _, p := range parts {
		maps.Copy(whole, p)
	}
	text, err := yaml.Marshal(whole)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, yaml.Unmarshal(text, &out)
}
