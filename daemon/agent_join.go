package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
	"github.com/peapod/peapod/internal/cidrs"
)

// joined is a machine that is known to its cluster.
type joined struct {
	settledAgent
	// servers are those that the clients reach.
	servers *join.Servers
	// node and proxy are the certificates by which it is known, serving that of its kubelet's server.
	node, proxy, serving *join.Credential
	// asNode and asProxy are clients that show them.
	asNode, asProxy kubernetes.Interface
}

// patience is how long an agent that has all it needs waits for the server before it starts without.
const patience = 5 * time.Second

// joinCluster makes the machine known: it makes sure of the server, asks for certificates, reads the cluster's
// configuration and gets its Pod network. Whatever it has from an earlier time it asks for only briefly.
func joinCluster(ctx context.Context, i instance.Instance, a settledAgent) (*joined, error) {
	j := &joined{settledAgent: a, servers: join.NewServers(a.server.Host, a.record.Servers)}
	dir := pkiDir(i)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make PKI directory: %w", err)
	}
	var err error
	if j.record.CA, err = authority(ctx, a.server, a.record); err != nil {
		return nil, err
	}
	if err := j.record.write(i); err != nil {
		return nil, err
	}
	if err := j.certify(ctx, dir); err != nil {
		return nil, err
	}
	err = attempt(ctx, "read the cluster's configuration", a.record.Config != nil, func(ctx context.Context) error {
		m, err := j.asProxy.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, bootstrap.NodeConfigMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		config, err := parseNodeConfig(m.Data)
		j.record.Config = &config
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := j.settleNodeIPs(j.record.Config.ranges()); err != nil {
		return nil, err
	}
	if err := j.serve(dir); err != nil {
		return nil, err
	}
	return j, j.register(ctx, i)
}

// authority makes sure of the server, and returns by whom it is believed. One that is away is waited for, unless it can be believed by what is
// known when it comes back.
func authority(ctx context.Context, server *url.URL, known agentRecord) (string, error) {
	err := attempt(ctx, "reach the server", known.trusts(time.Now()), func(ctx context.Context) error {
		ca, err := join.Trust(ctx, server, known.Pin)
		if err == nil {
			known.CA = string(ca)
		}
		return err
	})
	return known.CA, err
}

// serve opens the certificate of the kubelet's server, which the node gets once it is registered.
func (j *joined) serve(dir string) error {
	var err error
	j.serving, err = join.Open(join.Wanted{Name: "kubelet-server", Path: filepath.Join(dir, "kubelet-server.pem"),
		Signer: certificatesv1.KubeletServingSignerName, CommonName: nodeUser(j.NodeName), Groups: []string{user.NodesGroup},
		Server: true, Names: []string{j.NodeName}, IPs: netIPs(j.nodeIPs)})
	return err
}

// certify gets the certificates that are missing, as which the machine is a client.
func (j *joined) certify(ctx context.Context, dir string) error {
	name := nodeUser(j.NodeName)
	var errs [2]error
	j.node, errs[0] = join.Open(join.Wanted{Name: "node", Path: filepath.Join(dir, "node-client.pem"),
		Signer: certificatesv1.KubeAPIServerClientKubeletSignerName, CommonName: name, Groups: []string{user.NodesGroup}})
	j.proxy, errs[1] = join.Open(join.Wanted{Name: "proxy", Path: filepath.Join(dir, "proxy-client.pem"),
		Signer: certificatesv1.KubeAPIServerClientSignerName, CommonName: user.KubeProxy})
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if !j.node.Valid() {
		if j.token.ID == "" {
			return errors.New("this machine has no valid certificate as a node: join again with --token")
		}
		joining, err := j.client(func(c *rest.Config) error {
			c.BearerToken = j.token.Bearer()
			return nil
		})
		if err != nil {
			return err
		}
		if err := attempt(ctx, "join as node "+j.NodeName, false, func(ctx context.Context) error { return j.node.Obtain(ctx, joining) }); err != nil {
			if apierrors.IsUnauthorized(err) {
				err = fmt.Errorf("--token: the server does not know token %s, or its time is over; run 'peapod token create' where the server runs, and join with what it prints: %w", j.token.ID, err)
			}
			return err
		}
	}
	var err error
	if j.asNode, err = j.client(j.node.Show); err != nil {
		return err
	}
	if !j.proxy.Valid() {
		if err := attempt(ctx, "get the proxy's certificate", false, func(ctx context.Context) error { return j.proxy.Obtain(ctx, j.asNode) }); err != nil {
			return err
		}
	}
	j.asProxy, err = j.client(j.proxy.Show)
	return err
}

// client makes a client of the cluster's servers: of one after the other, as they can be reached.
func (j *joined) client(credential func(*rest.Config) error) (kubernetes.Interface, error) {
	cfg := &rest.Config{Host: j.server.String(), QPS: -1, Dial: j.servers.Dial,
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte(j.record.CA), ServerName: join.ServerName},
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"}}
	if err := credential(cfg); err != nil {
		return nil, err
	}
	cfg.Wrap(j.servers.Await)
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", j.server, err)
	}
	return c, nil
}

// register makes sure that there is a Node of this machine and that it has a Pod network. A node that was deleted
// meanwhile comes again with the network that it had, unless that is another's now: then its Pods are killed, whose
// addresses would be wrong. They are no longer wanted either.
func (j *joined) register(ctx context.Context, i instance.Instance) error {
	before := j.record.PodCIDRs
	err := attempt(ctx, "register the node", len(before) > 0, func(ctx context.Context) error {
		pods, err := registration{name: j.NodeName, before: j.record.PodCIDRs, node: j.asNode, nodes: j.asProxy}.podCIDRs(ctx)
		if err == nil {
			j.record.PodCIDRs = pods
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(before) > 0 && !before.Equal(j.record.PodCIDRs) {
		klog.FromContext(ctx).Info("The node has another Pod network than before; killing its Pods", "before", before, "now", j.record.PodCIDRs)
		if _, err := killPods(ctx, i); err != nil {
			return err
		}
	}
	return j.record.write(i)
}

// registration makes sure that there is a Node of a machine.
type registration struct {
	name string
	// before is the Pod network that the machine had; empty: none.
	before cidrs.List
	// node acts as the node, nodes may list all of them.
	node, nodes kubernetes.Interface
}

// podCIDRs returns the node's part of the Pod network, waiting for it to be given one.
func (r registration) podCIDRs(ctx context.Context) (cidrs.List, error) {
	nodes := r.node.CoreV1().Nodes()
	node, err := nodes.Get(ctx, r.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.name,
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}
		if free, err := r.unclaimed(ctx); err != nil {
			return nil, err
		} else if free {
			fresh.Spec.PodCIDR, fresh.Spec.PodCIDRs = r.before.First().String(), r.before.Strings()
		}
		node, err = nodes.Create(ctx, fresh, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, err
	}
	if node.Spec.PodCIDR == "" {
		lw := cache.NewListWatchFromClient(r.node.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, r.name))
		_, err := watchtools.UntilWithSync(ctx, lw, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
			if n, ok := e.Object.(*corev1.Node); ok && e.Type != watch.Deleted && n.Spec.PodCIDR != "" {
				node = n
				return true, nil
			}
			return false, nil
		})
		if err != nil {
			return nil, fmt.Errorf("wait for a Pod network: %w", err)
		}
	}
	pods, err := cidrs.Parse(strings.Join(node.Spec.PodCIDRs, ","))
	if err != nil {
		return nil, fmt.Errorf("read the node's Pod network: %w", err)
	}
	return pods, nil
}

// unclaimed says whether this machine has a Pod network from before that no node has now.
func (r registration) unclaimed(ctx context.Context) (bool, error) {
	if len(r.before) == 0 {
		return false, nil
	}
	list, err := r.nodes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range list.Items {
		if n.Spec.PodCIDR == r.before.First().String() {
			return false, nil
		}
	}
	return true, nil
}

// Times after which an attempt is repeated.
const attemptFirst, attemptMax = 200 * time.Millisecond, 10 * time.Second

// attempt repeats f until it succeeds, fails for good, or ctx ends. Where the machine can do without, it gives up after
// a short while, without an error.
func attempt(ctx context.Context, what string, dispensable bool, f func(context.Context) error) error {
	log, limited := klog.FromContext(ctx), ctx
	if dispensable {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for wait := attemptFirst; ; wait = min(2*wait, attemptMax) {
		err := f(limited)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case final(err):
			return fmt.Errorf("%s: %w", what, err)
		case limited.Err() != nil:
			log.Info("The server is away; going on with what is known", "missing", what, "err", err)
			return nil
		}
		log.Info("Cannot yet "+what+", will try again", "after", wait, "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-limited.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// final says that an error will not go away by itself.
func final(err error) bool {
	var mistrust *join.MistrustError
	var denied *join.DeniedError
	return apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) || errors.As(err, &mistrust) || errors.As(err, &denied)
}
