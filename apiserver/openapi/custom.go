package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Custom tells which custom resources are defined.
type Custom interface {
	// Generation is another one after each change.
	Generation() int64
	// Established lists those that are served, in the order of their names.
	Established() []*apiextensionsv1.CustomResourceDefinition
}

// customV2 is the one document of version 2, with the custom resources in it. Where there are none it costs nothing.
type customV2 struct {
	custom  Custom
	builtin func() (*document, error)

	mu         sync.Mutex
	generation int64
	merged     *document // of that generation; nil before the first
}

// document builds the document anew after a change of what is defined: the one of the built-in kinds is read back from its
// encoding, which costs a few tens of milliseconds but no memory in between.
func (c *customV2) document() (*document, error) {
	builtin, err := c.builtin()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	generation := c.custom.Generation() // Before the list: at worst, what is newer is built once more.
	if c.merged != nil && c.generation == generation {
		return c.merged, nil
	}
	crds := c.custom.Established()
	if len(crds) == 0 {
		c.merged, c.generation = builtin, generation
		return builtin, nil
	}
	var specs []*spec.Swagger
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			s, err := builder.BuildOpenAPIV2(crd, v.Name, builder.Options{V2: true})
			if err != nil {
				return nil, fmt.Errorf("describe %s in version %s: %w", crd.Name, v.Name, err)
			}
			specs = append(specs, s)
		}
	}
	var base spec.Swagger
	if err := base.UnmarshalJSON(builtin.json); err != nil {
		return nil, fmt.Errorf("read OpenAPI v2 back: %w", err)
	}
	all, err := builder.MergeSpecs(&base, specs...)
	if err != nil {
		return nil, fmt.Errorf("add custom resources to OpenAPI v2: %w", err)
	}
	data, err := all.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI v2: %w", err)
	}
	c.merged, c.generation = newDocument(data, handler.ToProtoBinary), generation
	return c.merged, nil
}

// customV3 are the documents of version 3, one for each group version, those of custom resources among them.
type customV3 struct {
	custom  Custom
	builtin func() (map[string]*document, error)

	mu         sync.Mutex
	generation int64
	all        map[string]*document // of that generation; nil before the first
	made       map[string]described // by root
}

// described is the document of a group version of custom resources and of which definitions it was made.
type described struct {
	of  string
	doc *document
}

// documents builds anew the documents of those group versions whose definitions have changed. The map is read-only, and the same
// one as long as nothing changes.
func (c *customV3) documents() (map[string]*document, error) {
	builtin, err := c.builtin()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	generation := c.custom.Generation()
	if c.all != nil && c.generation == generation {
		return c.all, nil
	}
	members := map[string][]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range c.custom.Established() {
		for _, v := range crd.Spec.Versions {
			if v.Served {
				root := "apis/" + crd.Spec.Group + "/" + v.Name
				members[root] = append(members[root], crd)
			}
		}
	}
	made := make(map[string]described, len(members))
	for root, crds := range members {
		of := definitions(crds)
		if made[root] = c.made[root]; made[root].of == of {
			continue
		}
		doc, err := describe(root, crds)
		if err != nil {
			return nil, err
		}
		made[root] = described{of, doc}
	}
	all := builtin
	if len(made) > 0 {
		all = maps.Clone(builtin)
		for root, d := range made {
			if _, taken := builtin[root]; !taken {
				all[root] = d.doc
			}
		}
	}
	c.made, c.all, c.generation = made, all, generation
	return all, nil
}

// definitions tells lists of definitions apart.
func definitions(crds []*apiextensionsv1.CustomResourceDefinition) string {
	var b strings.Builder
	for _, crd := range crds {
		fmt.Fprintf(&b, "%s/%d ", crd.UID, crd.Generation)
	}
	return b.String()
}

// describe makes the document of a group version.
func describe(root string, crds []*apiextensionsv1.CustomResourceDefinition) (*document, error) {
	version := root[strings.LastIndex(root, "/")+1:]
	var specs []*spec3.OpenAPI
	for _, crd := range crds {
		s, err := builder.BuildOpenAPIV3(crd, version, builder.Options{V2: false})
		if err != nil {
			return nil, fmt.Errorf("describe %s in version %s: %w", crd.Name, version, err)
		}
		specs = append(specs, s)
	}
	merged, err := builder.MergeSpecsV3(specs...)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", root, err)
	}
	data, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI v3 of %s: %w", root, err)
	}
	return newDocument(data, v3Proto), nil
}
