package openapi

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/NYTimes/gziphandler"
	"github.com/munnerz/goautoneg"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/handler3"
)

// document is one OpenAPI document. It is kept encoded: what it was built from is much larger.
type document struct {
	json  []byte
	proto func() ([]byte, error)
	etag  string
	built time.Time
}

func newDocument(data []byte, toProto func([]byte) ([]byte, error)) *document {
	return &document{
		json:  data,
		proto: sync.OnceValues(func() ([]byte, error) { return toProto(data) }),
		etag:  fmt.Sprintf("%X", sha512.Sum512(data)),
		built: time.Now(),
	}
}

func v3Proto(data []byte) ([]byte, error) { return handler3.ToV3ProtoBinary(data) }

// protobuf's media type is "application/com.github.proto-openapi.spec.<v>.v1.0+protobuf"; clients of old write the second
// dot as an at sign.
func protobuf(v string) string { return "com.github.proto-openapi.spec." + v + ".v1.0+protobuf" }

// negotiate returns the document's encoding that the request's Accept header prefers, and its media type; "" if there is
// none.
func (d *document) negotiate(req *http.Request, v string) ([]byte, string, error) {
	accept := req.Header.Get("Accept")
	if accept == "" {
		accept = "*/*"
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return d.json, "application/json", nil
		case protobuf(v), "com.github.proto-openapi.spec." + v + "@v1.0+protobuf":
			data, err := d.proto()
			return data, "application/" + protobuf(v), err
		}
	}
	return nil, "", nil
}

func (d *document) serve(w http.ResponseWriter, req *http.Request, v string) {
	w.Header().Set("Vary", "Accept")
	data, mediaType, err := d.negotiate(req, v)
	switch {
	case err != nil:
		fail(w, req, err)
	case mediaType == "":
		w.WriteHeader(http.StatusNotAcceptable)
	default:
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Etag", strconv.Quote(d.etag))
		http.ServeContent(w, req, "", d.built, bytes.NewReader(data))
	}
}

func fail(w http.ResponseWriter, req *http.Request, err error) {
	klog.FromContext(req.Context()).Error(err, "Cannot serve OpenAPI document", "path", req.URL.Path)
	http.Error(w, "OpenAPI document not available: "+err.Error(), http.StatusInternalServerError)
}

func serveV2(build func(context.Context) (*document, error)) http.Handler {
	return gziphandler.GzipHandler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		d, err := build(req.Context())
		if err != nil {
			fail(w, req, err)
			return
		}
		d.serve(w, req, "v2")
	}))
}

// location is where a root's document is found. The hash lets clients keep it until it changes.
func location(root string, d *document) string {
	return (&url.URL{Path: "/openapi/v3/" + root, RawQuery: url.Values{"hash": {d.etag}}.Encode()}).String()
}

// serveV3Index makes the index anew for each request: a line for each group version, whose documents are hashed already.
func serveV3Index(build func(context.Context) (map[string]*document, error)) http.Handler {
	index := func(ctx context.Context) (*document, error) {
		documents, err := build(ctx)
		if err != nil {
			return nil, err
		}
		paths := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
		for root, d := range documents {
			paths.Paths[root] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: location(root, d)}
		}
		data, err := json.Marshal(paths)
		if err != nil {
			return nil, fmt.Errorf("encode index of OpenAPI v3: %w", err)
		}
		return newDocument(data, nil), nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		d, err := index(req.Context())
		if err != nil {
			fail(w, req, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", strconv.Quote(d.etag))
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(d.json))
	})
}

func serveV3(build func(context.Context) (map[string]*document, error)) http.Handler {
	return gziphandler.GzipHandler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		documents, err := build(req.Context())
		if err != nil {
			fail(w, req, err)
			return
		}
		root := strings.TrimPrefix(req.URL.Path, "/openapi/v3/")
		d, ok := documents[root]
		if !ok {
			http.NotFound(w, req)
			return
		}
		if hash := req.URL.Query().Get("hash"); hash != "" {
			if hash != d.etag {
				http.Redirect(w, req, location(root, d), http.StatusMovedPermanently)
				return
			}
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(time.RFC1123))
		}
		d.serve(w, req, "v3")
	}))
}
