package serviceaccount

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a Pod waits for its namespace's default account, which is made soon after the namespace.
const patience = time.Second

// accounts finds service accounts.
type accounts struct {
	client kubernetes.Interface
	lister corelisters.ServiceAccountLister

	mu sync.Mutex
	// awaited are closed when the account of that key comes.
	awaited map[string]*arrival
}

// arrival is closed once; waiting counts those who look at it.
type arrival struct {
	come    chan struct{}
	waiting int
}

func newAccounts(client kubernetes.Interface, informer coreinformers.ServiceAccountInformer) (*accounts, error) {
	s := &accounts{client: client, lister: informer.Lister(), awaited: map[string]*arrival{}}
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: s.come})
	if err != nil {
		return nil, fmt.Errorf("watch service accounts: %w", err)
	}
	return s, nil
}

func (s *accounts) come(obj any) {
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return // not an object, and so nobody's account
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.awaited[key]; a != nil {
		close(a.come)
		delete(s.awaited, key)
	}
}

// get looks at what is known, then asks the API, which may know more; and if the account is the default one, waits for
// it to come.
func (s *accounts) get(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if found, err := s.lister.ServiceAccounts(namespace).Get(name); err == nil {
		return found, nil
	}
	if name != defaultAccount {
		return s.ask(ctx, namespace, name)
	}
	// Whoever asks before he waits would miss what comes in between.
	come, leave := s.await(namespace + "/" + name)
	defer leave()
	found, err := s.ask(ctx, namespace, name)
	if !apierrors.IsNotFound(err) {
		return found, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-come:
		return s.ask(ctx, namespace, name)
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, err
}

func (s *accounts) ask(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	found, err := s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	return found, err
}

// await returns what is closed when the account comes. leave ends the waiting.
func (s *accounts) await(key string) (come <-chan struct{}, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.awaited[key]
	if a == nil {
		a = &arrival{come: make(chan struct{})}
		s.awaited[key] = a
	}
	a.waiting++
	return a.come, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.waiting--; a.waiting == 0 && s.awaited[key] == a {
			delete(s.awaited, key)
		}
	}
}
