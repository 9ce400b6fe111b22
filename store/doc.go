// Package store is the storage of the API server: storage.Interface of k8s.io/apiserver over one process's memory and
// disk, with the semantics that clients see of etcd behind a watch cache.
//
// Open reads the data directory; Decorator plugs the store in behind the generic registry. DESIGN.md beside this file
// says how it works and what it promises.
package store
