// Command copier is a controller as others write them with client-go, to run in a Pod: of the copiers of a namespace one is
// elected to lead, and it makes a ConfigMap copy-of-NAME for each ConfigMap labeled copy=true and keeps it the same. It stands on
// the Pod's mounted token alone.
//
//	copier [-lease SECONDS]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
)

const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func main() {
	lease := flag.Int("lease", 15, "for how many seconds a leader that has fallen silent still counts as one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, time.Duration(*lease)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "copier:", err)
		os.Exit(1)
	}
}

// run takes part in the election until ctx ends, and fails if it loses what it had won.
func run(ctx context.Context, lease time.Duration) error {
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	c := &copier{client: client, namespace: strings.TrimSpace(string(namespace))}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.namespace, Name: "copier"},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration:   lease,
		RenewDeadline:   lease * 2 / 3,
		RetryPeriod:     lease / 8,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				if err := c.lead(ctx); err != nil {
					fmt.Fprintln(os.Stderr, "copier:", err)
					os.Exit(1)
				}
			},
			OnStoppedLeading: func() { fmt.Println("not leading any more") },
			OnNewLeader:      func(leader string) { fmt.Println("the leader is", leader) },
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	if ctx.Err() == nil {
		return errors.New("lost the lease")
	}
	return nil
}

// copier keeps copies while it leads.
type copier struct {
	client    kubernetes.Interface
	namespace string
	sources   corev1listers.ConfigMapLister
	queue     workqueue.TypedRateLimitingInterface[string] // names of sources
}

// lead works until ctx ends.
func (c *copier) lead(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithNamespace(c.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "copy=true" }))
	maps := factory.Core().V1().ConfigMaps()
	c.sources = maps.Lister()
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer c.queue.ShutDown()
	add := func(object any) { c.queue.Add(object.(*corev1.ConfigMap).Name) }
	if _, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { add(object) },
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), maps.Informer().HasSynced) {
		return nil // The end came first.
	}
	fmt.Println("leading")
	go func() {
		<-ctx.Done()
		c.queue.ShutDown()
	}()
	for {
		name, end := c.queue.Get()
		if end {
			return nil
		}
		if err := c.copy(ctx, name); err != nil {
			fmt.Println("will try again:", err)
			c.queue.AddRateLimited(name)
		} else {
			c.queue.Forget(name)
		}
		c.queue.Done(name)
	}
}

// copy makes the copy of a source what it should be. It goes with its source, by its owner reference.
func (c *copier) copy(ctx context.Context, name string) error {
	source, err := c.sources.ConfigMaps(c.namespace).Get(name)
	if err != nil {
		return nil // It is gone; so is its copy, soon.
	}
	want := corev1apply.ConfigMap("copy-of-"+name, c.namespace).WithData(source.Data).
		WithOwnerReferences(metav1apply.OwnerReference().WithAPIVersion("v1").WithKind("ConfigMap").WithName(name).WithUID(source.UID))
	if _, err := c.client.CoreV1().ConfigMaps(c.namespace).Apply(ctx, want, metav1.ApplyOptions{FieldManager: "copier", Force: true}); err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	fmt.Println("copied", name, source.ResourceVersion)
	return nil
}
