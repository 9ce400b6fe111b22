package customresource

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"github.com/peapod/peapod/apiserver/inprocess"
)

// metadata answers watches of the metadata of custom objects for those within the process who share, above all the garbage collector, which
// watches each kind. Metadata is the same in each version and by each schema. So what the library makes of a definition before it answers
// anything (validators, schemas, managed fields' types: 2 MB for a large one, and for good) is made when somebody looks at the objects.
type metadata struct {
	objects options
	defined *Defined
	// atLeast is how long a watch lasts at least that does not say.
	atLeast time.Duration

	mu sync.Mutex
	// of has the storage of each kind that was watched, by its definition's UID.
	of map[types.UID]kindMetadata
}

type kindMetadata struct {
	storage storage.Interface
	destroy factory.DestroyFunc
}

func newMetadata(objects options, defined *Defined, atLeast time.Duration) (*metadata, error) {
	m := &metadata{objects: objects, defined: defined, atLeast: atLeast, of: map[types.UID]kindMetadata{}}
	return m, defined.OnChange(m.forget)
}

// forget lets go of kinds that are not defined any more.
func (m *metadata) forget([]*apiextensionsv1.CustomResourceDefinition) {
	all, err := m.defined.definitions.List(labels.Everything())
	if err != nil {
		return // A lister that reads memory does not fail.
	}
	there := make(map[types.UID]bool, len(all))
	for _, crd := range all {
		there[crd.UID] = true
	}
	m.keep(func(uid types.UID) bool { return there[uid] })
}

// close lets go of all kinds.
func (m *metadata) close() { m.keep(func(types.UID) bool { return false }) }

func (m *metadata) keep(which func(types.UID) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, kind := range m.of {
		if !which(uid) {
			kind.destroy()
			delete(m.of, uid)
		}
	}
}

// Metadata has next answer what is no watch of custom objects' metadata from within the process.
func (s *Server) Metadata(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !inprocess.Shares(req.Context()) || !s.metadata.serve(w, req) {
			next.ServeHTTP(w, req)
		}
	})
}

// serve answers a watch, or returns false where that is for others to do.
func (m *metadata) serve(w http.ResponseWriter, req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok || info.Verb != "watch" || info.Subresource != "" || info.Name != "" || info.Namespace != "" ||
		!strings.Contains(req.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return false
	}
	crd, err := m.defined.definitions.Get(info.Resource + "." + info.APIGroup)
	if err != nil || !served(crd) || !apihelpers.HasServedCRDVersion(crd, info.APIVersion) {
		return false
	}
	var o metainternalversion.ListOptions
	err = metainternalversionscheme.ParameterCodec.DecodeParameters(req.URL.Query(), metav1.SchemeGroupVersion, &o)
	if err != nil || o.LabelSelector != nil && !o.LabelSelector.Empty() || o.FieldSelector != nil && !o.FieldSelector.Empty() {
		return false
	}
	life, cancel := context.WithTimeout(req.Context(), m.lasts(o))
	defer cancel()
	if err := m.watch(life, crd, o); err != nil {
		responsewriters.ErrorNegotiated(err, extensions.Codecs, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}, w, req)
		return true
	}
	w.WriteHeader(http.StatusOK)
	return true
}

// served says whether objects of a definition are served, as the library sees it: who asks may know of a definition that it is established
// before this server's informer does.
func served(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return established(crd) || apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.NamesAccepted)
}

// lasts is how long a watch goes on: as long as it asks for, or at least as long as is usual, so that not all end at once.
func (m *metadata) lasts(o metainternalversion.ListOptions) time.Duration {
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		return time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return m.atLeast + rand.N(m.atLeast)
}

// watch begins a watch of all objects of a kind, which storage hands over to who asks.
func (m *metadata) watch(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, o metainternalversion.ListOptions) error {
	s, prefix, err := m.storage(crd)
	if err != nil {
		return err
	}
	all := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: storage.DefaultNamespaceScopedAttr, AllowWatchBookmarks: o.AllowWatchBookmarks}
	_, err = s.Watch(ctx, prefix, storage.ListOptions{ResourceVersion: o.ResourceVersion, Predicate: all, Recursive: true, SendInitialEvents: o.SendInitialEvents})
	return err
}

// storage returns that of a kind, and what its keys begin with.
func (m *metadata) storage(crd *apiextensionsv1.CustomResourceDefinition) (storage.Interface, string, error) {
	rest, err := m.objects.GetRESTOptions(schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}, nil)
	if err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if kind, ok := m.of[crd.UID]; ok {
		return kind.storage, rest.ResourcePrefix, nil
	}
	config := *rest.StorageConfig
	config.Codec = metadataCodec{}
	key := func(obj runtime.Object) (string, error) { return metadataKey(rest.ResourcePrefix, obj) }
	s, destroy, err := m.objects.storage(&config, rest.ResourcePrefix, key,
		func() runtime.Object { return &metav1.PartialObjectMetadata{} }, func() runtime.Object { return &metav1.PartialObjectMetadataList{} },
		storage.DefaultNamespaceScopedAttr, nil, nil)
	if err != nil {
		return nil, "", err
	}
	m.of[crd.UID] = kindMetadata{s, destroy}
	return s, rest.ResourcePrefix, nil
}

// metadataKey is where the object of some metadata is stored.
func metadataKey(prefix string, obj runtime.Object) (string, error) {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return "", fmt.Errorf("find the key of a %T: it is no metadata", obj)
	}
	if o.Namespace == "" {
		return prefix + "/" + o.Name, nil
	}
	return prefix + "/" + o.Namespace + "/" + o.Name, nil
}

// metadataCodec reads the metadata of stored custom objects.
type metadataCodec struct{}

// Decode implements runtime.Decoder. Fields of metadata that are not as they should be, as objects of old versions may have them, are
// dropped, as everywhere else.
func (metadataCodec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	m, ok := into.(*metav1.PartialObjectMetadata)
	if !ok {
		m = &metav1.PartialObjectMetadata{}
	}
	if err := json.Unmarshal(data, m); err != nil {
		var whole map[string]any
		if err := json.Unmarshal(data, &whole); err != nil {
			return nil, nil, fmt.Errorf("decode a custom object: %w", err)
		}
		meta, _, err := objectmeta.GetObjectMeta(whole, true)
		if err != nil {
			return nil, nil, fmt.Errorf("decode the metadata of a custom object: %w", err)
		}
		*m = metav1.PartialObjectMetadata{}
		if meta != nil {
			m.ObjectMeta = *meta
		}
	}
	gvk := metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
	m.SetGroupVersionKind(gvk)
	return m, &gvk, nil
}

// Encode implements runtime.Encoder. Metadata alone is never written, but watch caches look whether it can be encoded.
func (metadataCodec) Encode(obj runtime.Object, w io.Writer) error {
	return json.NewEncoder(w).Encode(obj)
}

// Identifier implements runtime.Encoder.
func (metadataCodec) Identifier() runtime.Identifier { return "metadata" }
