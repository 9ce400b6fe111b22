package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/internal/synced"
)

// key is the name under which the state has a Pod. One with addresses of this node may be there beside another of its name: no name of
// a Pod has a slash.
func (s *subject) key() types.NamespacedName {
	if !s.adopted {
		return s.NamespacedName
	}
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name + "/" + string(s.uid)}
}

// Admit returns when the rules for a Pod of this node, which has been given those addresses, are in place: before any of its
// containers may start. Without policies that is at once. It can be repeated, and with other addresses when the Pod gets them. The
// addresses count until Release, whatever the API says of the Pod.
func (e *Enforcer) Admit(ctx context.Context, pod *corev1.Pod, addresses []string) error {
	s := &subject{
		NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, uid: pod.UID, since: pod.CreationTimestamp.Time,
		labels: pod.Labels, local: true, adopted: true, ports: namedPorts(&pod.Spec),
	}
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("admit pod %s to the network: %w", s.NamespacedName, err)
		}
		s.addrs = append(s.addrs, a.Unmap())
	}
	// Static Pods run without an API server, too: the policies reach them when they are known.
	static := pod.Annotations["kubernetes.io/config.source"] == "file"
	if !synced.Wait(ctx, synced.Limit, e.synced) && !static {
		return fmt.Errorf("admit pod %s to the network: network policies are not known: the API server cannot be reached, or user system:kube-proxy may not list and watch them",
			s.NamespacedName)
	}
	e.mu.Lock()
	if e.given[s.NamespacedName] == nil {
		e.given[s.NamespacedName] = map[types.UID]*subject{}
	}
	if old := e.given[s.NamespacedName][s.uid]; old == nil || !slices.Equal(old.addrs, s.addrs) {
		e.given[s.NamespacedName][s.uid] = s
		if e.attentive {
			e.dirty.pods[s.NamespacedName] = true
		}
	}
	this, needed := e.next, len(e.known) > 0
	if needed {
		e.bell.Ring()
	}
	e.mu.Unlock()
	if !needed {
		return nil
	}
	select {
	case <-this.done:
	case <-ctx.Done():
		return fmt.Errorf("admit pod %s to the network: its rules are not in place yet: %w", s.NamespacedName, context.Cause(ctx))
	}
	if this.err != nil {
		return fmt.Errorf("admit pod %s to the network: %w", s.NamespacedName, this.err)
	}
	return nil
}

// Release is told that the addresses of a Pod of this node are nobody's any more. One that is not known is no error.
func (e *Enforcer) Release(namespace, name string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if _, known := e.given[key][uid]; !known {
		return
	}
	if delete(e.given[key], uid); len(e.given[key]) == 0 {
		delete(e.given, key)
	}
	if e.attentive {
		e.dirty.pods[key] = true
		e.bell.Ring()
	}
}
