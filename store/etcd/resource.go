package etcd

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// resource is the storage of one resource.
type resource struct {
	name    string
	cache   *cacher.Cacher
	destroy func()
}

// view is the connection as one resource uses it: with a watch stream of its own.
func (s *Store) view() *clientv3.Client {
	v := clientv3.NewCtxClient(s.client.Ctx())
	v.Cluster, v.KV, v.Lease, v.Auth, v.Maintenance = s.client.Cluster, s.client.KV, s.client.Lease, s.client.Auth, s.client.Maintenance
	v.Watcher = clientv3.NewWatcher(s.client)
	return v
}

// uncached is the storage of one resource without a watch cache. stop ends it.
func (s *Store) uncached(config *storagebackend.ConfigForResource, resourcePrefix string, newFunc, newListFunc func() runtime.Object) (_ storage.Interface, stop func(), err error) {
	transformer := config.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	decoder := etcd3.NewDefaultDecoder(config.Codec, storage.APIObjectVersioner{})
	if corruptionTolerated() {
		transformer = etcd3.WithCorruptObjErrorHandlingTransformer(transformer)
		decoder = etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	return s.storing(config, resourcePrefix, newFunc, newListFunc, transformer, decoder)
}

// storing is uncached with what turns stored bytes into objects.
func (s *Store) storing(config *storagebackend.ConfigForResource, resourcePrefix string, newFunc, newListFunc func() runtime.Object,
	transformer value.Transformer, decoder etcd3.Decoder) (_ storage.Interface, stop func(), err error) {
	view := s.view()
	client := &kubernetes.Client{Client: view}
	client.Kubernetes = client
	raw, err := etcd3.New(client, s.compactor, config.Codec, newFunc, newListFunc, s.cfg.Prefix, resourcePrefix,
		config.GroupResource, transformer, config.LeaseManagerConfig, decoder, storage.APIObjectVersioner{})
	if err != nil {
		_ = view.Watcher.Close() // nothing was watched
		return nil, nil, fmt.Errorf("make the storage of %s: %w", config.GroupResource, err)
	}
	stop = func() {
		raw.Close()
		_ = view.Watcher.Close() // says only why the streams ended, which is that we end them
	}
	if corruptionTolerated() {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(raw, config.GroupResource), stop, nil
	}
	return raw, stop, nil
}

// corruptionTolerated says whether objects that cannot be read may be listed by name and deleted.
func corruptionTolerated() bool {
	return utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
}
