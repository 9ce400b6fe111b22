// Package customresource serves CustomResourceDefinitions and the kinds that they define. The work is
// k8s.io/apiextensions-apiserver's (validation, pruning, defaulting, conversion, subresources, columns); this package sets it up
// as the server that the main one hands over to what it does not know, and tells what is defined: for the lists of groups and for
// the OpenAPI documents.
package customresource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	informers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"

	"github.com/peapod/peapod/apiserver/encryption"
)

// Group is that of CustomResourceDefinitions.
const Group = apiextensionsv1.GroupName

// Config is what a Server is made from. What is not marked optional must be set.
type Config struct {
	// Generic is a copy of the main server's configuration, which the Server changes. Its manager of aggregated discovery is
	// shared with the main server.
	Generic *genericapiserver.Config
	// Storage is where definitions and custom objects are kept.
	Storage generic.StorageDecorator
	// Encryption says what is encrypted there. Optional.
	Encryption *encryption.Encryption
	// Services finds the webhooks that convert between versions.
	Services webhook.ServiceResolver
}

// Server serves definitions and custom objects.
type Server struct {
	generic   *genericapiserver.GenericAPIServer
	informers informers.SharedInformerFactory
	defined   *Defined
	metadata  *metadata
}

// New makes a server that is ready to be the main server's delegate: that runs what this one has to run.
func New(c Config) (*Server, error) {
	if c.Generic == nil || c.Generic.AggregatedDiscoveryGroupManager == nil || c.Storage == nil || c.Services == nil {
		return nil, errors.New("make server of custom resources: Generic with its discovery manager, Storage and Services are needed")
	}
	storage := sharing(c.Storage)
	definitions, err := definitionOptions(storage, c.Encryption)
	if err != nil {
		return nil, err
	}
	objects := objectOptions(storage, c.Encryption)
	g := c.Generic
	g.RESTOptionsGetter = definitions
	g.MergedResourceConfig = extensions.DefaultAPIResourceConfigSource()
	// Requests come through the main server's chain of handlers, and its index and metrics are those of both.
	g.BuildHandlerChainFunc = func(h http.Handler, _ *genericapiserver.Config) http.Handler { return h }
	g.EnableIndex, g.EnableMetrics, g.EnableProfiling = false, false, false
	// Known does without this hook's ticks of 100 ms, and without the end of the process if the server is stopped meanwhile.
	g.DisabledPostStartHooks = g.DisabledPostStartHooks.Union(sets.NewString("crd-informer-synced"))
	if g.AdmissionControl == nil {
		g.AdmissionControl = admission.NewChainHandler()
	}
	// These describe the definitions alone: for managed fields, and as what the schemas of custom objects refer to.
	g.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, apiopenapi.NewDefinitionNamer(extensions.Scheme))
	config := extensions.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *g},
		ExtraConfig: extensions.ExtraConfig{
			CRDRESTOptionsGetter: objects,
			MasterCount:          1,
			ServiceResolver:      c.Services,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, g.LoopbackClientConfig, g.TracerProvider),
		},
	}
	s := &Server{}
	made, err := config.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notfoundhandler.New(extensions.Codecs, s.complete)))
	if err != nil {
		return nil, fmt.Errorf("make server of custom resources: %w", err)
	}
	definitionsInformer := made.Informers.Apiextensions().V1().CustomResourceDefinitions()
	if err := definitionsInformer.Informer().SetTransform(lean); err != nil {
		return nil, fmt.Errorf("make server of custom resources: %w", err)
	}
	defined, err := newDefined(definitionsInformer)
	if err != nil {
		return nil, fmt.Errorf("make server of custom resources: %w", err)
	}
	if s.metadata, err = newMetadata(objects, defined, time.Duration(g.MinRequestTimeout)*time.Second); err != nil {
		return nil, fmt.Errorf("make server of custom resources: %w", err)
	}
	made.GenericAPIServer.RegisterDestroyFunc(s.metadata.close)
	s.generic, s.informers, s.defined = made.GenericAPIServer, made.Informers, defined
	return s, nil
}

// Start reads what is defined and follows it until ctx ends; what it started is waited for by the function it returns. The main
// server's handler must answer calls within the process. Once the definitions are known, the controllers, which the main server
// starts as it runs, need not wait: they would look every 100 ms.
func (s *Server) Start(ctx context.Context) (stopped func()) {
	s.informers.StartWithContext(ctx)
	select {
	case <-s.defined.Known():
	case <-ctx.Done():
	}
	return s.informers.Shutdown
}

// AwaitStarted returns once /readyz has nothing of this server to wait for, or with ctx's error. The controllers tell by a check alone
// that they have started, so it is asked, for the few milliseconds that they take.
func (s *Server) AwaitStarted(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, startedPoll, true, func(context.Context) (bool, error) {
		for _, check := range s.generic.HealthzChecks() {
			if strings.HasPrefix(check.Name(), "poststarthook/") && check.Check(nil) != nil {
				return false, nil
			}
		}
		return true, nil
	})
}

const startedPoll = 2 * time.Millisecond

// complete says whether all kinds that were defined when the server started are known, and were when the request came: until then nothing
// is "not found". That a kind became known while it was looked for does not make it one that there is not.
func (s *Server) complete(ctx context.Context) bool {
	if !genericapifilters.NoMuxAndDiscoveryIncompleteKey(ctx) {
		return false
	}
	select {
	case <-s.defined.Known():
		return true
	default:
		return false
	}
}

// Delegate is what the main server hands requests over to.
func (s *Server) Delegate() *genericapiserver.GenericAPIServer { return s.generic }

// ListGroups keeps the groups of custom resources in the list that a server answers on /apis in. It must be called before the
// server runs. Groups that builtin knows are the main server's and stay as they are.
func (s *Server) ListGroups(to discovery.GroupManager, builtin func(group string) bool) error {
	return s.defined.OnChange(lister{to, builtin, map[string]bool{}}.update)
}

// Defined tells what is defined.
func (s *Server) Defined() *Defined { return s.defined }

// options says how objects are stored.
type options struct {
	config     *storagebackend.Config
	storage    generic.StorageDecorator
	encryption *encryption.Encryption
}

// definitionOptions has definitions stored as protobuf.
func definitionOptions(storage generic.StorageDecorator, e *encryption.Encryption) (options, error) {
	config := storagebackend.NewDefaultConfig("/", nil)
	codec, versioner, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  runtime.ContentTypeProtobuf,
		StorageSerializer: extensions.Codecs,
		StorageVersion:    apiextensionsv1.SchemeGroupVersion,
		MemoryVersion:     schema.GroupVersion{Group: Group, Version: runtime.APIVersionInternal},
		Config:            *config,
	})
	if err != nil {
		return options{}, fmt.Errorf("set up storage of custom resource definitions: %w", err)
	}
	config.Codec, config.EncodeVersioner = codec, versioner
	return options{config, storage, e}, nil
}

// objectOptions has custom objects stored as JSON. The handler of a kind puts pruning, defaulting and conversion around the codec.
func objectOptions(storage generic.StorageDecorator, e *encryption.Encryption) options {
	return options{storagebackend.NewDefaultConfig("/", unstructured.UnstructuredJSONScheme), storage, e}
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o options) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	config := o.config.ForResource(gr)
	config.Transformer = o.encryption.TransformerForResource(gr)
	return generic.RESTOptions{
		StorageConfig:           config,
		Decorator:               o.storage,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          "/" + gr.Group + "/" + gr.Resource,
	}, nil
}
