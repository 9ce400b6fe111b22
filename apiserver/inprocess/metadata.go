package inprocess

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// NewMetadata makes a client for metadata of a Transport's config, whose watches share the server's objects as a NewClientset's do.
func NewMetadata(config *rest.Config) (metadata.Interface, error) {
	all, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	config, over, err := sharing(config)
	if err != nil {
		return nil, err
	}
	config = metadata.ConfigFor(config)
	config.GroupVersion, config.AcceptContentTypes = &schema.GroupVersion{}, asMetadata
	watching, err := restClient(config, metadataOf, over)
	if err != nil {
		return nil, fmt.Errorf("make a client for metadata that shares the server's objects: %w", err)
	}
	return metadataClient{all, watching}, nil
}

// asMetadata is what is accepted of a watch that is not shared.
const asMetadata = runtime.ContentTypeProtobuf + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1," + runtime.ContentTypeJSON + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

type metadataClient struct {
	metadata.Interface
	watching rest.Interface
}

// Resource implements metadata.Interface.
func (c metadataClient) Resource(r schema.GroupVersionResource) metadata.Getter {
	g := c.Interface.Resource(r)
	return metadataGetter{metadataIn{g, c.watching, r, ""}, g}
}

type metadataGetter struct {
	metadataIn
	getter metadata.Getter
}

// Namespace implements metadata.Getter.
func (g metadataGetter) Namespace(ns string) metadata.ResourceInterface {
	return metadataIn{g.getter.Namespace(ns), g.watching, g.resource, ns}
}

// metadataIn is a resource in one namespace, or all.
type metadataIn struct {
	metadata.ResourceInterface
	watching  rest.Interface
	resource  schema.GroupVersionResource
	namespace string
}

// Watch implements metadata.ResourceInterface.
func (m metadataIn) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	root := "/apis"
	if m.resource.Group == "" {
		root = "/api"
	}
	var timeout time.Duration
	if o.TimeoutSeconds != nil {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	o.Watch = true
	return m.watching.Get().AbsPath(root, m.resource.Group, m.resource.Version).NamespaceIfScoped(m.namespace, m.namespace != "").
		Resource(m.resource.Resource).SpecificallyVersionedParams(&o, clientscheme.ParameterCodec, schema.GroupVersion{Version: "v1"}).Timeout(timeout).Watch(ctx)
}
