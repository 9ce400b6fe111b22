// Package engine runs controllers: a queue of keys, workers that bring what each key names into its desired state, and
// retries with back-off. A controller is a Loop whose keys come from informer events; it keeps no state but what the API
// holds, so it may stop at any instant and start elsewhere.
package engine

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/netip"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/keyqueue"
)

// Deps is what a controller is made from: the Kubernetes API and nothing else. Informers are shared by all controllers;
// what they hand out is read-only.
type Deps struct {
	// Client acts as the controller's own user, so that RBAC limits it to what it needs.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Extensions reads the definitions of custom resources as that user.
	Extensions apiextensions.Interface
	// Config makes clients of other APIs as that user.
	Config    *rest.Config
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	// RootCA is the PEM bundle that clients in Pods trust for the API server. It is called at each use: the bundle may
	// change while the server runs.
	RootCA func() []byte
	// SignClient and SignServing sign certificates with the keys of the cluster's two authorities: for clients of the API
	// server and of kubelets, and for servers. The answer is PEM.
	SignClient, SignServing func(template *x509.Certificate, public crypto.PublicKey) ([]byte, error)
	// SigningDuration is for how long certificates are valid that are signed here, NodeMonitorGracePeriod for how long a node may
	// be silent. Zero stands for the defaults of who uses them.
	SigningDuration, NodeMonitorGracePeriod time.Duration
	// ClusterCIDRs are what nodes' Pod networks are parts of.
	ClusterCIDRs cidrs.List
	// ServiceCIDRs are the ranges of the default ServiceCIDR. Without any it is left alone.
	ServiceCIDRs []netip.Prefix
}

// Runner is a controller: it works until ctx ends and returns once nothing of it runs.
type Runner interface {
	Run(ctx context.Context) error
}

// Loop is the usual controller, whose keys are names of objects.
type Loop = Queue[cache.ObjectName]

// Queue is a running controller's shape.
type Queue[K comparable] = keyqueue.Queue[K]

// Retry is an error of a Queue's Sync that is none: the key is to be looked at again after a time.
type Retry = keyqueue.Retry

// Object queues the names of objects, as an informer's handler.
func Object(l *Loop) func(obj any) {
	return func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			l.Add(name)
		}
	}
}

// Namespace queues the namespaces of objects, as an informer's handler.
func Namespace(l *Loop) func(obj any) {
	return func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			l.Add(cache.ObjectName{Name: name.Namespace})
		}
	}
}

// OnAny calls f with every object that is added, changed or deleted.
func OnAny(f func(obj any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }, DeleteFunc: f}
}

// OnSet calls f with every object that is added or changed.
func OnSet(f func(obj any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }}
}

// OnChange calls f with what an object was, nil for one that appeared, and what it is, nil for one that has gone.
func OnChange[T any](f func(old, new *T)) cache.ResourceEventHandlerFuncs {
	of := func(obj any) *T {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		t, _ := obj.(*T)
		return t
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f(nil, of(obj)) },
		UpdateFunc: func(old, new any) { f(of(old), of(new)) },
		DeleteFunc: func(obj any) {
			if t := of(obj); t != nil {
				f(t, nil)
			}
		},
	}
}
