package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
)

// leeway is what clocks may differ by, and for how long an object that is being deleted still carries its tokens.
const leeway = time.Minute

// objects finds what tokens are bound to: in the informers, or, where an informer does not have it or still has an older
// object of that name, in the API. Only bearers of tokens with a good signature get as far as that.
type objects struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

func (o objects) account(ctx context.Context, namespace string, ref reference) (*corev1.ServiceAccount, error) {
	if found, err := o.accounts.ServiceAccounts(namespace).Get(ref.Name); err == nil && found.UID == ref.UID {
		return found, nil
	}
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
}

func (o objects) pod(ctx context.Context, namespace string, ref reference) (*corev1.Pod, error) {
	if found, err := o.pods.Pods(namespace).Get(ref.Name); err == nil && found.UID == ref.UID {
		return found, nil
	}
	return o.client.CoreV1().Pods(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
}

func (o objects) node(ctx context.Context, ref reference) (*corev1.Node, error) {
	if found, err := o.nodes.Get(ref.Name); err == nil && found.UID == ref.UID {
		return found, nil
	}
	return o.client.CoreV1().Nodes().Get(ctx, ref.Name, metav1.GetOptions{})
}

// tokens authenticates bearers of service-account tokens.
type tokens struct {
	issuer  *Issuer
	objects objects
}

var _ authenticator.Token = &tokens{}

// AuthenticateToken says whom the token stands for. Its errors never quote the token.
func (t *tokens) AuthenticateToken(ctx context.Context, text string) (*authenticator.Response, bool, error) {
	c, err := t.issuer.verify(text)
	if errors.Is(err, errNotOurs) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	own := authenticator.Audiences(t.issuer.cfg.Audiences)
	requested, given := authenticator.AudiencesFrom(ctx)
	if !given {
		requested = own
	}
	audiences := authenticator.Audiences(c.Audience).Intersect(requested)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), requested)
	}
	info, err := t.check(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// check holds the claims against the time and the objects that the token is bound to.
func (t *tokens) check(ctx context.Context, c *claims) (*serviceaccount.ServiceAccountInfo, error) {
	now := t.issuer.cfg.Clock.Now()
	switch {
	case c.Private == nil || c.Expiry == 0:
		return nil, errors.New("service account token claims could not be validated due to unexpected content")
	case now.After(time.Unix(c.Expiry, 0).Add(leeway)):
		return nil, errors.New("service account token has expired")
	case now.Before(time.Unix(c.NotBefore, 0).Add(-leeway)):
		return nil, errors.New("service account token is not valid yet")
	}
	p := c.Private
	if c.Subject != serviceaccount.MakeUsername(p.Namespace, p.Account.Name) {
		return nil, errors.New("service account token subject does not match its service account")
	}
	if err := t.checkObjects(ctx, p, now); err != nil {
		return nil, err
	}
	if p.WarnAfter != 0 && now.After(time.Unix(p.WarnAfter, 0)) {
		seconds := int64(now.Sub(time.Unix(p.WarnAfter, 0)).Seconds())
		klog.FromContext(ctx).V(3).Info("Stale service account token used", "subject", c.Subject, "pod", p.Pod, "secondsLate", seconds)
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %d", c.Subject, seconds))
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: p.Namespace, Name: p.Account.Name, UID: string(p.Account.UID)}
	if c.ID != "" {
		info.CredentialID = "JTI=" + c.ID
	}
	if p.Pod != nil {
		info.PodName, info.PodUID = p.Pod.Name, string(p.Pod.UID)
	}
	if p.Node != nil {
		info.NodeName, info.NodeUID = p.Node.Name, string(p.Node.UID)
	}
	return info, nil
}

// checkObjects fails unless the account, and the Pod, Secret or Node of the token, are still the same objects and not
// deleted for longer than the leeway. The Node of a Pod's token is information: the Pod ends with it soon enough.
func (t *tokens) checkObjects(ctx context.Context, p *private, now time.Time) error {
	account, err := t.objects.account(ctx, p.Namespace, p.Account)
	if err := same(ctx, account, err, "service account", p.Namespace+"/"+p.Account.Name, p.Account.UID, now); err != nil {
		return err
	}
	if p.Secret != nil {
		secret, err := t.objects.client.CoreV1().Secrets(p.Namespace).Get(ctx, p.Secret.Name, metav1.GetOptions{})
		if err := same(ctx, secret, err, "secret", p.Namespace+"/"+p.Secret.Name, p.Secret.UID, now); err != nil {
			return err
		}
	}
	if p.Pod != nil {
		pod, err := t.objects.pod(ctx, p.Namespace, *p.Pod)
		if err := same(ctx, pod, err, "pod", p.Namespace+"/"+p.Pod.Name, p.Pod.UID, now); err != nil {
			return err
		}
	}
	if p.Node != nil && p.Pod == nil {
		node, err := t.objects.node(ctx, *p.Node)
		if err := same(ctx, node, err, "node", p.Node.Name, p.Node.UID, now); err != nil {
			return err
		}
	}
	return nil
}

// errInvalidated is all that the bearer of a token for something that is gone is told; the log says more.
var errInvalidated = errors.New("service account token has been invalidated")

// same fails unless the object was found, has that UID, and is not deleted for longer than the leeway.
func same(ctx context.Context, object metav1.Object, err error, kind, name string, uid types.UID, now time.Time) error {
	log := klog.FromContext(ctx).V(4)
	switch {
	case apierrors.IsNotFound(err):
		log.Info("Token is bound to an object that does not exist", "kind", kind, "name", name)
		return errInvalidated
	case err != nil:
		return fmt.Errorf("look up %s %s of service account token: %w", kind, name, err)
	case object.GetUID() != uid:
		return fmt.Errorf("%s UID (%s) does not match claim (%s)", kind, object.GetUID(), uid)
	}
	if deleted := object.GetDeletionTimestamp(); deleted != nil && deleted.Add(leeway).Before(now) {
		log.Info("Token is bound to an object that has been deleted", "kind", kind, "name", name)
		return errInvalidated
	}
	return nil
}
