package framework

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Groups knows which Pods belong together without saying so themselves: those that the same Services select and the same owner
// manages. Pods that do not say how they are to be spread are spread by these.
type Groups struct {
	services map[string]*lookup[*service]
	owners   map[Owner]labels.Selector
}

// Owner names what manages Pods. APIVersion and Kind are as in an owner reference.
type Owner struct{ Namespace, APIVersion, Kind, Name string }

type service struct {
	name     string
	selector labels.Set
}

// NewGroups returns one that knows nothing.
func NewGroups() *Groups {
	return &Groups{services: map[string]*lookup[*service]{}, owners: map[Owner]labels.Selector{}}
}

// SetService takes in that a Service appeared or changed.
func (g *Groups) SetService(s *corev1.Service) {
	known := g.services[s.Namespace]
	if known != nil {
		if old := known.byID[s.Name]; old != nil {
			if labels.Equals(old.selector, s.Spec.Selector) {
				return
			}
			known.remove(s.Name, old, old.pairs())
		}
	}
	if len(s.Spec.Selector) == 0 {
		return // it selects nothing
	}
	if known == nil {
		made := newLookup[*service]()
		known = &made
		g.services[s.Namespace] = known
	}
	entry := &service{s.Name, s.Spec.Selector}
	known.put(s.Name, entry, entry.pairs())
}

// RemoveService takes in that a Service has gone.
func (g *Groups) RemoveService(s *corev1.Service) {
	known := g.services[s.Namespace]
	if known == nil {
		return
	}
	if old := known.byID[s.Name]; old != nil {
		known.remove(s.Name, old, old.pairs())
	}
	if len(known.byID) == 0 {
		delete(g.services, s.Namespace)
	}
}

// pairs is one label that a Pod must have for the service to select it: the first by name, so that it is always the same.
func (s *service) pairs() []labelPair {
	first := ""
	for key := range s.selector {
		if first == "" || key < first {
			first = key
		}
	}
	return []labelPair{{first, s.selector[first]}}
}

// SetOwner takes in what Pods an owner manages. A selector that does not parse, which validation refuses, counts as none.
func (g *Groups) SetOwner(o Owner, selector *metav1.LabelSelector) {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		delete(g.owners, o)
		return
	}
	g.owners[o] = parsed
}

// RemoveOwner takes in that an owner has gone.
func (g *Groups) RemoveOwner(o Owner) { delete(g.owners, o) }

// Selector selects the Pods that p belongs to: those that have all the labels by which Services and its owner find p. It is nil
// where nothing does. It costs a look-up for each label of the Pod.
func (g *Groups) Selector(p *corev1.Pod) labels.Selector {
	wanted := labels.Set{}
	if known := g.services[p.Namespace]; known != nil {
		known.concerning(p.Labels, func(s *service) {
			if s.selector.AsSelectorPreValidated().Matches(labels.Set(p.Labels)) {
				wanted = labels.Merge(wanted, s.selector)
			}
		})
	}
	selector := labels.SelectorFromSet(wanted)
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if own := g.owners[Owner{p.Namespace, ref.APIVersion, ref.Kind, ref.Name}]; own != nil {
			if requirements, ok := own.Requirements(); ok {
				selector = selector.Add(requirements...)
			}
		}
	}
	if selector.Empty() {
		return nil
	}
	return selector
}
