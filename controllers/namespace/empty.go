package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

// emptier deletes all that a namespace holds, of whatever kinds the server has.
type emptier struct {
	client   kubernetes.Interface
	metadata metadata.Interface
}

// findings are what is left of a namespace's content after a round of deletes, and what went wrong.
type findings struct {
	// remaining counts the objects left, by resource; finalizers counts them by the finalizers that hold them.
	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int

	discovery, parsing, deletion error
}

func (f findings) err() error { return errors.Join(f.discovery, f.parsing, f.deletion) }

// podResource is deleted before everything else.
var podResource = corev1.SchemeGroupVersion.WithResource("pods")

// empty asks for the deletion of everything in ns: of Pods first and, once there are none, of what they may have used until
// their end, policies that guarded them for instance (KEP-5080). It costs one list, and for what is not empty a second list and one
// delete of the collection, per kind that the server has.
func (e emptier) empty(ctx context.Context, ns *corev1.Namespace) findings {
	f := findings{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	lists, err := e.client.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		// Kinds of a group that cannot be discovered may still hold content: go on with the others, but do not finish.
		f.discovery = fmt.Errorf("discover kinds: %w", err)
	}
	deletable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, lists)
	resources, err := discovery.GroupVersionResources(deletable)
	if err != nil {
		f.parsing = fmt.Errorf("parse kinds: %w", err)
	}
	collections := sets.New[schema.GroupVersionResource]()
	if m, err := discovery.GroupVersionResources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"deletecollection"}}, lists)); err == nil {
		collections = sets.KeySet(m)
	}
	ordered := slices.SortedFunc(maps.Keys(resources), func(a, b schema.GroupVersionResource) int { return strings.Compare(a.String(), b.String()) })
	if i := slices.Index(ordered, podResource); i > 0 {
		ordered = slices.Insert(slices.Delete(ordered, i, i+1), 0, podResource)
	}
	for _, gvr := range ordered {
		if f.remaining[podResource] > 0 {
			break
		}
		if err := e.emptyResource(ctx, ns.Name, gvr, collections.Has(gvr), &f); err != nil {
			f.deletion = errors.Join(f.deletion, err)
		}
	}
	return f
}

func (e emptier) emptyResource(ctx context.Context, namespace string, gvr schema.GroupVersionResource, collection bool, f *findings) error {
	client := e.metadata.Resource(gvr).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if gone(err) || err == nil && len(list.Items) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if collection {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil && !gone(err) {
			return fmt.Errorf("delete all %s: %w", gvr.GroupResource(), err)
		}
	} else {
		for i := range list.Items {
			if err := client.Delete(ctx, list.Items[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete %s %q: %w", gvr.GroupResource(), list.Items[i].Name, err)
			}
		}
	}
	list, err = client.List(ctx, metav1.ListOptions{})
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if n := len(list.Items); n > 0 {
		f.remaining[gvr] = n
	}
	for i := range list.Items {
		for _, finalizer := range list.Items[i].Finalizers {
			f.finalizers[finalizer]++
		}
	}
	return nil
}

// gone says that the kind was removed, or cannot be listed, since it was discovered.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) }

// conditions returns a Terminating namespace's conditions as upstream words them: the five are always there once set,
// and a transition time changes with its status alone.
func (f findings) conditions(old []corev1.NamespaceCondition, now time.Time) []corev1.NamespaceCondition {
	type outcome struct {
		kind                    corev1.NamespaceConditionType
		bad                     bool
		badReason, goodReason   string
		badMessage, goodMessage string
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	out := slices.Clone(old)
	for _, o := range []outcome{
		{corev1.NamespaceDeletionDiscoveryFailure, f.discovery != nil, "DiscoveryFailed", "ResourcesDiscovered",
			f.discoveryMessage(), "All resources successfully discovered"},
		{corev1.NamespaceDeletionGVParsingFailure, f.parsing != nil, "GroupVersionParsingFailed", "ParsedGroupVersions",
			text(f.parsing), "All legacy kube types successfully parsed"},
		{corev1.NamespaceDeletionContentFailure, f.deletion != nil, "ContentDeletionFailed", "ContentDeleted",
			"Failed to delete all resource types, " + text(f.deletion), "All content successfully deleted, may be waiting on finalization"},
		{corev1.NamespaceContentRemaining, len(f.remaining) > 0, "SomeResourcesRemain", "ContentRemoved",
			"Some resources are remaining: " + f.contentMessage(), "All content successfully removed"},
		{corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain", "ContentHasNoFinalizers",
			"Some content in the namespace has finalizers remaining: " + f.finalizersMessage(), "All content-preserving finalizers finished"},
	} {
		c := corev1.NamespaceCondition{Type: o.kind, Status: corev1.ConditionFalse, Reason: o.goodReason, Message: o.goodMessage,
			LastTransitionTime: metav1.NewTime(now)}
		if o.bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, o.badReason, o.badMessage
		}
		i := slices.IndexFunc(out, func(c corev1.NamespaceCondition) bool { return c.Type == o.kind })
		if i < 0 {
			out = append(out, c)
			continue
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	return out
}

// discoveryMessage says how many group versions nobody tells the kinds of, where it is these.
func (f findings) discoveryMessage() string {
	var failed *discovery.ErrGroupDiscoveryFailed
	switch {
	case errors.As(f.discovery, &failed):
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(failed.Groups), failed)
	case f.discovery != nil:
		return f.discovery.Error()
	}
	return ""
}

func (f findings) contentMessage() string {
	var parts []string
	for gvr, n := range f.remaining {
		name := gvr.Resource + "."
		if gvr.Group != "" {
			name += gvr.Group
		}
		parts = append(parts, fmt.Sprintf("%s has %d resource instances", name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (f findings) finalizersMessage() string {
	var parts []string
	for name, n := range f.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
