package openapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Config is what the documents are made from.
type Config struct {
	Title string
	// Version is the API's ("v1.37.2"); what follows a dash or plus sign is left out.
	Version string
	// Scheme returns a scheme of the types as clients see them.
	Scheme func() (*runtime.Scheme, error)
}

// Documents builds and serves the OpenAPI documents.
type Documents struct {
	config Config

	mu sync.Mutex
	// recent is the configuration that was last made, until release drops it.
	recent  *common.OpenAPIV3Config
	release *time.Timer
}

// keepFor is how long definitions are kept after their last use: as long as a start takes, which needs them for each group.
const keepFor = 3 * time.Second

// New returns Documents that have built nothing yet.
func New(c Config) *Documents {
	c.Version, _, _ = strings.Cut(c.Version, "-")
	c.Version, _, _ = strings.Cut(c.Version, "+")
	return &Documents{config: c}
}

// withDefinitions calls use with a configuration, which it must let go. It holds the definitions of all types, 4 MB that take some 20 ms
// to make: those who need one soon after each other share it. They take turns, as the library writes to the definitions that it
// builds from.
func (d *Documents) withDefinitions(use func(*common.OpenAPIV3Config) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.recent == nil {
		c, err := d.newV3Config()
		if err != nil {
			return err
		}
		d.recent = c
	}
	if d.release != nil {
		d.release.Stop()
	}
	// One that waits for its turn may drop what was just made: then it is made again.
	d.release = time.AfterFunc(keepFor, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.recent = nil
	})
	return use(d.recent)
}

// Install serves /openapi/v2 and /openapi/v3 and what is beneath it. The documents describe the routes that the containers have
// when they are first asked for, and whenever they are asked for the custom resources that are defined and what elsewhere returns, the
// group versions of other servers.
func (d *Documents) Install(to *mux.PathRecorderMux, custom Custom, elsewhere func() []Elsewhere, containers ...*restful.Container) {
	services := func() []*restful.WebService {
		var all []*restful.WebService
		have := map[string]bool{} // Of two at one path ("/version") the first answers.
		for _, c := range containers {
			for _, ws := range c.RegisteredWebServices() {
				if !have[ws.RootPath()] {
					have[ws.RootPath()] = true
					all = append(all, ws)
				}
			}
		}
		return all
	}
	v2 := &customV2{custom: custom, builtin: sync.OnceValues(func() (*document, error) { return d.buildV2(services()) })}
	v3 := &customV3{custom: custom, builtin: sync.OnceValues(func() (map[string]*document, error) { return d.buildV3(services()) })}
	far := &remote{list: elsewhere}
	one := func(ctx context.Context) (*document, error) {
		here, err := v2.document()
		if err != nil {
			return nil, err
		}
		return far.document(ctx, here)
	}
	all := func(ctx context.Context) (map[string]*document, error) {
		here, err := v3.documents()
		if err != nil {
			return nil, err
		}
		return far.documents(ctx, here), nil
	}
	to.Handle("/openapi/v2", serveV2(one))
	to.Handle("/openapi/v3", serveV3Index(all))
	to.HandlePrefix("/openapi/v3/", serveV3(all))
}

func (d *Documents) info() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: d.config.Title, Version: d.config.Version}}
}

const (
	bearer      = "BearerToken"
	bearerAbout = "Bearer Token authentication"
)

func (d *Documents) namer() (*apiopenapi.DefinitionNamer, error) {
	scheme, err := d.config.Scheme()
	if err != nil {
		return nil, fmt.Errorf("name the API's types: %w", err)
	}
	return apiopenapi.NewDefinitionNamer(scheme), nil
}

func (d *Documents) newV3Config() (*common.OpenAPIV3Config, error) {
	namer, err := d.namer()
	if err != nil {
		return nil, err
	}
	c := genericapiserver.DefaultOpenAPIV3Config(GetOpenAPIDefinitions, namer)
	c.Info = d.info()
	c.SecuritySchemes = spec3.SecuritySchemes{bearer: &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: bearerAbout,
	}}}
	c.DefaultSecurity = []map[string][]string{{bearer: {}}}
	c.CommonResponses = map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}}
	return c, nil
}

func (d *Documents) buildV2(services []*restful.WebService) (*document, error) {
	namer, err := d.namer()
	if err != nil {
		return nil, err
	}
	config := genericapiserver.DefaultOpenAPIConfig(GetOpenAPIDefinitions, namer)
	config.Info = d.info()
	config.SecurityDefinitions = &spec.SecurityDefinitions{bearer: &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: bearerAbout,
	}}}
	config.DefaultSecurity = []map[string][]string{{bearer: {}}}
	config.CommonResponses = map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	swagger, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), config)
	if err != nil {
		return nil, fmt.Errorf("build OpenAPI v2: %w", err)
	}
	swagger.Definitions = handler.PruneDefaults(swagger.Definitions)
	data, err := swagger.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI v2: %w", err)
	}
	return newDocument(data, handler.ToProtoBinary), nil
}

// buildV3 returns a document for each root ("api/v1", "apis/apps/v1", "version").
func (d *Documents) buildV3(services []*restful.WebService) (map[string]*document, error) {
	config, err := d.newV3Config() // Its own copy: it is garbage when the documents are built.
	if err != nil {
		return nil, err
	}
	documents := map[string]*document{}
	for _, ws := range services {
		root := strings.TrimPrefix(ws.RootPath(), "/")
		api, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), config)
		if err != nil {
			return nil, fmt.Errorf("build OpenAPI v3 of %s: %w", root, err)
		}
		scopeKinds(api, root)
		data, err := json.Marshal(api)
		if err != nil {
			return nil, fmt.Errorf("encode OpenAPI v3 of %s: %w", root, err)
		}
		documents[root] = newDocument(data, v3Proto)
	}
	return documents, nil
}

const kindExtension = "x-kubernetes-group-version-kind"

// scopeKinds leaves, of the types that every group version has (DeleteOptions and WatchEvent), those names that belong to
// the document's own group version and to v1.
func scopeKinds(api *spec3.OpenAPI, root string) {
	group, version, ok := groupVersion(root)
	if !ok || api.Components == nil {
		return
	}
	for _, schema := range api.Components.Schemas {
		all, ok := schema.Extensions[kindExtension].([]any)
		if !ok || len(all) < 2 {
			continue
		}
		var kept []any
		for _, one := range all {
			names, _ := one.(map[string]any)
			if kind := names["kind"]; kind != "DeleteOptions" && kind != "WatchEvent" {
				kept = all
				break
			}
			g, v := names["group"], names["version"]
			if g == group && v == version || g == "" && v == "v1" {
				kept = append(kept, one)
			}
		}
		extensions := make(spec.Extensions, len(schema.Extensions))
		for k, v := range schema.Extensions {
			extensions[k] = v
		}
		extensions[kindExtension] = kept
		schema.Extensions = extensions
	}
}

// groupVersion takes "api/v1" or "apis/apps/v1" apart.
func groupVersion(root string) (group, version string, ok bool) {
	switch p := strings.Split(root, "/"); {
	case len(p) == 2 && p[0] == "api":
		return "", p[1], true
	case len(p) == 3 && p[0] == "apis":
		return p[1], p[2], true
	}
	return "", "", false
}
