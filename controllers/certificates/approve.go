package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// approver decides on what nodes ask for.
type approver struct {
	d        engine.Deps
	requests certlisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	services corelisters.ServiceLister
}

// NewApprover returns the controller that approves the requests of nodes. Others wait for an administrator.
func NewApprover(d engine.Deps) (engine.Runner, error) {
	requests, nodes := d.Informers.Certificates().V1().CertificateSigningRequests(), d.Informers.Core().V1().Nodes()
	services := d.Informers.Core().V1().Services()
	a := &approver{d, requests.Lister(), nodes.Lister(), services.Lister()}
	loop := &engine.Loop{Name: "csr-approver", Sync: a.sync}
	synced, err := requests.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	// A request for a server's certificate may have come before the node's addresses.
	nodesSynced, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { a.wake(loop, o.(*corev1.Node)) },
		UpdateFunc: func(old, o any) {
			was, is := old.(*corev1.Node), o.(*corev1.Node)
			if !slices.Equal(was.Status.Addresses, is.Status.Addresses) {
				a.wake(loop, is)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker(), nodesSynced.HasSyncedChecker(), services.Informer().HasSyncedChecker()}
	return loop, nil
}

// wake queues the open requests of a node.
func (a *approver) wake(loop *engine.Loop, node *corev1.Node) {
	list, err := a.requests.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, c := range list {
		if c.Spec.Username == nodePrefix+node.Name && !decided(c) {
			loop.Add(cache.ObjectName{Name: c.Name})
		}
	}
}

func decided(c *csr) bool {
	return has(c, certificatesv1.CertificateApproved) || has(c, certificatesv1.CertificateDenied) || len(c.Status.Certificate) > 0
}

func (a *approver) sync(ctx context.Context, key cache.ObjectName) error {
	c, err := a.requests.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && decided(c) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read certificate request %s: %w", key.Name, err)
	}
	r, err := parse(c)
	if err != nil {
		return nil // the signer says so, if anybody approves it
	}
	switch sortOf(c, r) {
	case nodeClient:
		if node, err := a.nodes.Get(strings.TrimPrefix(r.Subject.CommonName, nodePrefix)); err == nil && ready(node) {
			return a.decide(ctx, c, certificatesv1.CertificateDenied, "NodeExists",
				fmt.Sprintf("node %s is already in the cluster and Ready: choose another name, or delete it first", node.Name))
		}
		return a.review(ctx, c, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
	case nodeRenewal:
		return a.review(ctx, c, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
	case nodeProxy:
		return a.review(ctx, c, "selfnodeclient", "Auto approving proxy client certificate of a node after SubjectAccessReview.")
	case nodeServing:
		if !a.owns(strings.TrimPrefix(c.Spec.Username, nodePrefix), r) {
			return nil // until the node registers its addresses, or an administrator decides
		}
		return a.review(ctx, c, "selfnodeclient", "Auto approving kubelet serving certificate for the node's own addresses.")
	}
	return nil
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// owns says whether what a certificate is to be valid for is the node's, and its alone: with a certificate for another
// node's address, or for the API's, a node could pose as that.
func (a *approver) owns(name string, r *x509.CertificateRequest) bool {
	for _, dns := range r.DNSNames {
		if dns != name || namesService(dns) {
			return false
		}
	}
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return false
	}
	kubernetes, err := a.services.Services(metav1.NamespaceDefault).Get("kubernetes")
	if err != nil && !apierrors.IsNotFound(err) {
		return false
	}
	for _, ip := range r.IPAddresses {
		if kubernetes != nil && slices.Contains(kubernetes.Spec.ClusterIPs, ip.String()) || ip.IsLoopback() || ip.IsUnspecified() {
			return false
		}
		mine := false
		for _, node := range nodes {
			holds := slices.ContainsFunc(node.Status.Addresses, func(x corev1.NodeAddress) bool { return x.Address == ip.String() })
			if holds && node.Name != name {
				return false
			}
			mine = mine || holds
		}
		if !mine {
			return false
		}
	}
	return true
}

// namesService says whether a name is one by which Pods and agents know the API server or another Service, or one that every
// machine has for itself. A machine may join under such a name, but it must not serve under it.
func namesService(dns string) bool {
	parts := strings.Split(strings.ToLower(dns), ".")
	return parts[0] == "localhost" || parts[0] == "kubernetes" && (len(parts) == 1 || parts[1] == metav1.NamespaceDefault) ||
		slices.Contains(parts, "svc")
}

// review asks whether who made the request may have it approved without anybody's looking at it.
func (a *approver) review(ctx context.Context, c *csr, subresource, message string) error {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range c.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	answer, err := a.d.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: c.Spec.Username, UID: c.Spec.UID, Groups: c.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*"},
		}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("review certificate request %s: %w", c.Name, err)
	}
	if !answer.Status.Allowed {
		return nil
	}
	return a.decide(ctx, c, certificatesv1.CertificateApproved, "AutoApproved", message)
}

func (a *approver) decide(ctx context.Context, c *csr, t certificatesv1.RequestConditionType, reason, message string) error {
	c = c.DeepCopy()
	c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message})
	_, err := a.d.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, c.Name, c, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("decide on certificate request %s: %w", c.Name, err)
	}
	return nil
}
