package openapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Elsewhere is a group version that another server answers for, which describes it, too.
type Elsewhere interface {
	// Root is the group version's path ("apis/apps/v1").
	Root() string
	// Ask gets what the server has at a path.
	Ask(ctx context.Context, path string, header http.Header) (status int, answered http.Header, body []byte, err error)
}

// remote adds what other servers say of their group versions. It asks whenever a client does, and is told that nothing has changed: what
// was heard is kept. Where there are no such servers it costs nothing.
type remote struct {
	list func() []Elsewhere

	mu    sync.Mutex
	heard map[string]*heard // by root
	// merged is the document of version 2 that was made last, of what mergedOf tells.
	merged   *document
	mergedOf string
}

// heard is what a server has said of a group version: in version 3, and in version 2 what belongs to the group version.
type heard struct {
	v3, v2         *document
	v3Etag, v2Etag string
}

const jsonType = "application/json"

// refresh asks all servers for what get gets, and returns what is known of each; of one that fails, what was heard before.
func (r *remote) refresh(ctx context.Context, get func(context.Context, Elsewhere, *heard) error) (roots []string, known map[string]*heard) {
	list := r.list()
	if len(list) == 0 {
		r.heard, r.merged = nil, nil
		return nil, nil
	}
	next := make(map[string]*heard, len(list))
	var asking errgroup.Group
	for _, e := range list {
		h := r.heard[e.Root()]
		if h == nil {
			h = &heard{}
		}
		next[e.Root()] = h
		roots = append(roots, e.Root())
		asking.Go(func() error {
			if err := get(ctx, e, h); err != nil {
				klog.FromContext(ctx).V(2).Info("Cannot get the OpenAPI document of a group version elsewhere", "root", e.Root(), "err", err)
			}
			return nil
		})
	}
	_ = asking.Wait() // What fails is told, and the others are served.
	r.heard = next
	return roots, next
}

// documents adds the group versions elsewhere to those of built.
func (r *remote) documents(ctx context.Context, built map[string]*document) map[string]*document {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.refresh(ctx, askV3)
	if len(known) == 0 {
		return built
	}
	all := maps.Clone(built)
	for root, h := range known {
		if h.v3 != nil {
			all[root] = h.v3
		}
	}
	return all
}

// document adds the group versions elsewhere to built.
func (r *remote) document(ctx context.Context, built *document) (*document, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	roots, known := r.refresh(ctx, askV2)
	var of strings.Builder
	of.WriteString(built.etag)
	var parts []*document
	for _, root := range roots {
		if h := known[root]; h.v2 != nil {
			fmt.Fprintf(&of, " %s %s", root, h.v2.etag)
			parts = append(parts, h.v2)
		}
	}
	if len(parts) == 0 {
		return built, nil
	}
	if r.merged != nil && r.mergedOf == of.String() {
		return r.merged, nil
	}
	var all spec.Swagger
	if err := all.UnmarshalJSON(built.json); err != nil {
		return nil, fmt.Errorf("read OpenAPI v2 back: %w", err)
	}
	for _, d := range parts {
		var part spec.Swagger
		if err := part.UnmarshalJSON(d.json); err != nil {
			return nil, fmt.Errorf("read OpenAPI v2 back: %w", err)
		}
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(&all, &part); err != nil {
			return nil, fmt.Errorf("add group versions of other servers to OpenAPI v2: %w", err)
		}
	}
	data, err := all.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI v2: %w", err)
	}
	r.merged, r.mergedOf = newDocument(data, handler.ToProtoBinary), of.String()
	return r.merged, nil
}

// ask gets a document, or nil where it is the one that etag tells.
func ask(ctx context.Context, e Elsewhere, path, etag string) (status int, newEtag string, body []byte, err error) {
	header := http.Header{"Accept": {jsonType}}
	if etag != "" {
		header.Set("If-None-Match", etag)
	}
	status, answered, body, err := e.Ask(ctx, path, header)
	if err != nil {
		return 0, "", nil, err
	}
	return status, answered.Get("Etag"), body, nil
}

// askV3 asks for version 3, which servers of old do not have: then that of version 2 is translated, as far as that goes.
func askV3(ctx context.Context, e Elsewhere, h *heard) error {
	path := "/openapi/v3/" + e.Root()
	status, etag, body, err := ask(ctx, e, path, h.v3Etag)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotModified:
		return nil
	case status == http.StatusOK && json.Valid(body):
		h.v3, h.v3Etag = newDocument(body, v3Proto), etag
		return nil
	case status != http.StatusNotFound && status != http.StatusForbidden:
		return fmt.Errorf("get %s: status %d", path, status)
	}
	if err := askV2(ctx, e, h); err != nil || h.v2 == nil {
		return err
	}
	var swagger spec.Swagger
	if err := swagger.UnmarshalJSON(h.v2.json); err != nil {
		return fmt.Errorf("read OpenAPI v2 back: %w", err)
	}
	data, err := json.Marshal(openapiconv.ConvertV2ToV3(&swagger))
	if err != nil {
		return fmt.Errorf("translate OpenAPI v2 of %s: %w", e.Root(), err)
	}
	h.v3, h.v3Etag = newDocument(data, v3Proto), ""
	return nil
}

// askV2 asks for version 2 and keeps what belongs to the group version.
func askV2(ctx context.Context, e Elsewhere, h *heard) error {
	const path = "/openapi/v2"
	status, etag, body, err := ask(ctx, e, path, h.v2Etag)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotModified:
		return nil
	case status != http.StatusOK:
		return fmt.Errorf("get %s: status %d", path, status)
	}
	var swagger spec.Swagger
	if err := swagger.UnmarshalJSON(body); err != nil {
		return fmt.Errorf("read %s of %s: %w", path, e.Root(), err)
	}
	part := aggregator.FilterSpecByPathsWithoutSideEffects(&swagger, []string{"/" + e.Root() + "/"})
	data, err := part.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encode OpenAPI v2 of %s: %w", e.Root(), err)
	}
	h.v2, h.v2Etag = newDocument(data, handler.ToProtoBinary), etag
	return nil
}
