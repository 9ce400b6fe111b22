// Package authenticationtrust publishes how servers behind the API server tell who asks: in the config map
// extension-apiserver-authentication, which they read and follow. Each server of a cluster adds what is its own.
package authenticationtrust

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the config map, in kube-system; readers have role extension-apiserver-authentication-reader.
const Name = "extension-apiserver-authentication"

// Config says whom the API server believes. All of it must be set.
type Config struct {
	// Client must be allowed to write config maps in kube-system.
	Client kubernetes.Interface
	// ClientCA vouches for users, FrontProxyCA for the server that passes requests on, whose certificate has the name FrontProxyName.
	ClientCA, FrontProxyCA dynamiccertificates.CAContentProvider
	FrontProxyName         string
}

// The keys of the config map.
const (
	keyClientCA     = "client-ca-file"
	keyFrontProxyCA = "requestheader-client-ca-file"
	keyNames        = "requestheader-allowed-names"
	keyUser         = "requestheader-username-headers"
	keyUID          = "requestheader-uid-headers"
	keyGroup        = "requestheader-group-headers"
	keyExtra        = "requestheader-extra-headers-prefix"
)

type publisher struct {
	cfg      Config
	informer cache.SharedIndexInformer
	loop     engine.Loop
}

var key = cache.ObjectName{Namespace: metav1.NamespaceSystem, Name: Name}

// New returns the controller. It watches its own config map alone.
func New(cfg Config) (engine.Runner, error) {
	if cfg.Client == nil || cfg.ClientCA == nil || cfg.FrontProxyCA == nil || cfg.FrontProxyName == "" {
		return nil, errors.New("publish authentication of extension API servers: Client, ClientCA, FrontProxyCA and FrontProxyName are needed")
	}
	p := &publisher{cfg: cfg}
	p.loop = engine.Loop{Name: Name, Sync: p.sync}
	p.informer = coreinformers.NewFilteredConfigMapInformer(cfg.Client, key.Namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	})
	handle, err := p.informer.AddEventHandler(engine.OnAny(engine.Object(&p.loop)))
	if err != nil {
		return nil, fmt.Errorf("watch config map %s: %w", key, err)
	}
	p.loop.Synced = []cache.DoneChecker{handle.HasSyncedChecker()}
	p.loop.Add(key)
	cfg.ClientCA.AddListener(p)
	cfg.FrontProxyCA.AddListener(p)
	return p, nil
}

// Enqueue implements dynamiccertificates.Listener: an authority has been renewed.
func (p *publisher) Enqueue() { p.loop.Add(key) }

// Run works until ctx ends.
func (p *publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { p.informer.RunWithContext(ctx) })
	err := p.loop.Run(ctx)
	running.Wait()
	return err
}

// sync makes or mends the config map.
func (p *publisher) sync(ctx context.Context, _ cache.ObjectName) error {
	api := p.cfg.Client.CoreV1().ConfigMaps(key.Namespace)
	obj, there, err := p.informer.GetStore().GetByKey(key.String())
	if err != nil {
		return err
	}
	if !there {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: key.Namespace}, Data: p.data(nil)}
		if _, err := api.Create(ctx, made, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create config map %s: %w", key, err)
		}
		return nil
	}
	old := obj.(*corev1.ConfigMap)
	data := p.data(old.Data)
	if maps.Equal(old.Data, data) {
		return nil
	}
	next := old.DeepCopy()
	next.Data = data
	_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // of which there is an event
		return fmt.Errorf("update config map %s: %w", key, err)
	}
	return nil
}

// data is what is to be there besides what other servers have put there. What cannot be read is nobody's.
func (p *publisher) data(old map[string]string) map[string]string {
	return map[string]string{
		keyClientCA:     certificates(old[keyClientCA], p.cfg.ClientCA.CurrentCABundleContent(), time.Now()),
		keyFrontProxyCA: certificates(old[keyFrontProxyCA], p.cfg.FrontProxyCA.CurrentCABundleContent(), time.Now()),
		keyNames:        names(old[keyNames], p.cfg.FrontProxyName),
		keyUser:         names(old[keyUser], "X-Remote-User"),
		keyUID:          names(old[keyUID], "X-Remote-Uid"),
		keyGroup:        names(old[keyGroup], "X-Remote-Group"),
		keyExtra:        names(old[keyExtra], "X-Remote-Extra-"),
	}
}

// names adds one to a list, in JSON.
func names(old, own string) string {
	var list []string
	_ = json.Unmarshal([]byte(old), &list)
	if !slices.Contains(list, own) {
		list = append(list, own)
	}
	b, _ := json.Marshal(list) // strings can be encoded
	return string(b)
}

// certificates adds those of own to a bundle, and takes out what has expired.
func certificates(old string, own []byte, now time.Time) string {
	var out bytes.Buffer
	seen := map[string]bool{}
	for rest := slices.Concat([]byte(old), []byte("\n"), own); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out.String()
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || now.After(cert.NotAfter) || seen[string(cert.Raw)] {
			continue
		}
		seen[string(cert.Raw)] = true
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: cert.Raw}))
	}
}
