// Package authz says who may do what. In this order: the members of system:masters may do everything; nodes may do what
// their work needs; everybody may do what Roles and ClusterRoles give them. Nothing else is allowed.
package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	"github.com/peapod/peapod/apiserver/authz/node"
	"github.com/peapod/peapod/apiserver/authz/rbac"
	"github.com/peapod/peapod/apiserver/authz/structured"
	"github.com/peapod/peapod/internal/synced"
)

// Config says what decisions are made from.
type Config struct {
	// Informers has not been started yet. Its client must be a member of system:masters, or it waits for itself.
	Informers informers.SharedInformerFactory
	// Client reads what is seldom asked for, and so not watched: ResourceSlices. It is a member of system:masters too.
	Client kubernetes.Interface
	// Served says which resources the server has; nil means all. Those that it has not are not watched.
	Served func(schema.GroupResource) bool
	// File says in which order who is asked. Optional: nodes' own rules, then roles.
	File *structured.File
	// SyncWait is how long a request waits for the informers' first list: 10 s if zero.
	SyncWait time.Duration
}

// Authorizer decides, and lists what a user may do.
type Authorizer struct {
	authorizer.Authorizer
	authorizer.RuleResolver
	rbac   *rbac.Evaluator
	synced []cache.DoneChecker
}

// New makes the authorizer. It answers once cfg.Informers has been started.
func New(cfg Config) (*Authorizer, error) {
	if cfg.Informers == nil || cfg.Client == nil {
		return nil, errors.New("make authorizer: Informers and Client are needed")
	}
	if cfg.Served == nil {
		cfg.Served = func(schema.GroupResource) bool { return true }
	}
	if cfg.SyncWait == 0 {
		cfg.SyncWait = synced.Limit
	}
	a := &Authorizer{}
	evaluator, rbacSynced, err := newRBAC(cfg.Informers)
	if err != nil {
		return nil, err
	}
	nodes, nodeSynced, err := newNode(cfg)
	if err != nil {
		return nil, err
	}
	a.rbac, a.synced = evaluator, append(rbacSynced, nodeSynced...)
	byRoles := structured.Part{Authorizer: &gate{Evaluator: evaluator, synced: rbacSynced, wait: cfg.SyncWait}, RuleResolver: evaluator}
	byNode := structured.Part{Authorizer: nodes, RuleResolver: nodes}
	if f := cfg.File; f != nil {
		a.Authorizer, a.RuleResolver = f, f
		return a, f.Bind(structured.Parts{structured.Node: byNode, structured.RBAC: byRoles})
	}
	chain, err := structured.Chain(structured.Named{Type: structured.Node, Name: "node", Part: byNode},
		structured.Named{Type: structured.RBAC, Name: "rbac", Part: byRoles})
	a.Authorizer, a.RuleResolver = chain, chain
	return a, err
}

// RBAC is the part that knows roles and bindings, for the checks that nobody gives what he does not have.
func (a *Authorizer) RBAC() *rbac.Evaluator { return a.rbac }

// Synced lists what is done when the first decision can be made without waiting.
func (a *Authorizer) Synced() []cache.DoneChecker { return a.synced }

func newRBAC(f informers.SharedInformerFactory) (*rbac.Evaluator, []cache.DoneChecker, error) {
	api := f.Rbac().V1()
	roles, roleBindings := api.Roles().Informer(), api.RoleBindings().Informer()
	clusterRoles, clusterRoleBindings := api.ClusterRoles().Informer(), api.ClusterRoleBindings().Informer()
	for _, i := range []cache.SharedIndexInformer{roleBindings, clusterRoleBindings} {
		if err := i.AddIndexers(rbac.SubjectIndexers()); err != nil {
			return nil, nil, fmt.Errorf("index role bindings: %w", err)
		}
	}
	e := rbac.New(rbac.Config{Roles: roles.GetIndexer(), RoleBindings: roleBindings.GetIndexer(),
		ClusterRoles: clusterRoles.GetIndexer(), ClusterRoleBindings: clusterRoleBindings.GetIndexer()})
	return e, []cache.DoneChecker{roles.HasSyncedChecker(), roleBindings.HasSyncedChecker(),
		clusterRoles.HasSyncedChecker(), clusterRoleBindings.HasSyncedChecker()}, nil
}

// gate has a request wait until the roles are known, rather than refusing it for want of them.
type gate struct {
	*rbac.Evaluator
	synced []cache.DoneChecker
	wait   time.Duration
}

func (g *gate) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !synced.Wait(ctx, g.wait, g.synced...) {
		return authorizer.DecisionNoOpinion, "RBAC: roles and bindings are not known yet", nil
	}
	return g.Evaluator.Authorize(ctx, a)
}

func (g *gate) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(g.Authorize(ctx, a))
}

func newNode(cfg Config) (*node.Authorizer, []cache.DoneChecker, error) {
	graph := node.NewGraph()
	var fed []cache.DoneChecker
	feed := func(i cache.SharedIndexInformer, set func(old, obj any), forget func(any)) error {
		registration, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { set(nil, obj) },
			UpdateFunc: set,
			DeleteFunc: func(obj any) {
				if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = d.Obj
				}
				forget(obj)
			},
		})
		if err != nil {
			return fmt.Errorf("watch what nodes have to do with: %w", err)
		}
		fed = append(fed, registration.HasSyncedChecker())
		return nil
	}
	f := cfg.Informers
	errs := []error{feed(f.Core().V1().Pods().Informer(), func(old, obj any) {
		was, _ := old.(*corev1.Pod)
		if now := obj.(*corev1.Pod); was == nil || node.PodChanged(was, now) {
			graph.SetPod(now)
		}
	}, func(obj any) { graph.DeletePod(obj.(*corev1.Pod)) })}
	if cfg.Served(schema.GroupResource{Resource: "persistentvolumes"}) {
		errs = append(errs, feed(f.Core().V1().PersistentVolumes().Informer(),
			func(_, obj any) { graph.SetVolume(obj.(*corev1.PersistentVolume)) },
			func(obj any) { graph.DeleteVolume(obj.(*corev1.PersistentVolume)) }))
	}
	if cfg.Served(schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}) {
		errs = append(errs, feed(f.Storage().V1().VolumeAttachments().Informer(),
			func(_, obj any) { graph.SetAttachment(obj.(*storagev1.VolumeAttachment)) },
			func(obj any) { graph.DeleteAttachment(obj.(*storagev1.VolumeAttachment)) }))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return node.New(node.Config{Graph: graph, Rules: bootstrap.NodeRules(), SliceNode: sliceNode(cfg.Client),
		Synced: func(ctx context.Context) bool { return synced.Wait(ctx, cfg.SyncWait, fed...) }}), fed, nil
}

// sliceNode asks the API for the node of a ResourceSlice. Nodes get and write single slices when their drivers' devices change, which
// is seldom, and most clusters have none: an informer would cost more.
func sliceNode(client kubernetes.Interface) func(context.Context, string) (string, error) {
	return func(ctx context.Context, name string) (string, error) {
		s, err := client.ResourceV1().ResourceSlices().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read resource slice %s: %w", name, err)
		}
		return ptr.Deref(s.Spec.NodeName, ""), nil
	}
}
