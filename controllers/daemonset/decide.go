package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/peapod/peapod/controllers/pods"
)

// tolerations are what Pods of DaemonSets bear beyond what their template says: they serve nodes that take no other Pods.
func tolerations(hostNetwork bool) []corev1.Toleration {
	out := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	}
	if hostNetwork {
		out = append(out, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// podFor completes a Pod that is to run on the node; "" stands for any, as where it is only asked whether it would fit.
func podFor(p *corev1.Pod, node string) {
	for _, t := range tolerations(p.Spec.HostNetwork) {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) }) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, t)
		}
	}
	if node == "" {
		return
	}
	onNode := []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	if p.Spec.Affinity.NodeAffinity == nil {
		p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: onNode}
}

// nodeOf is the node that the Pod runs on or is meant for.
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" || p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return p.Spec.NodeName
	}
	required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// fits says whether a Pod of the set is to run on the node, and whether one that does may go on.
func fits(template *corev1.Pod, node *corev1.Node) (run, stay bool, err error) {
	if template.Spec.NodeName != "" && template.Spec.NodeName != node.Name {
		return false, false, nil
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(template).Match(node)
	if err != nil || !ok {
		return false, false, err
	}
	run, stay = true, true
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		borne := slices.ContainsFunc(template.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(&tol, t) })
		if borne || t.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		run = false
		stay = stay && t.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay, nil
}

func tolerates(tol *corev1.Toleration, t *corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	return tol.Operator == corev1.TolerationOpExists || (tol.Operator == "" || tol.Operator == corev1.TolerationOpEqual) && tol.Value == t.Value
}

// place is a node with the set's Pods on it.
type place struct {
	node      *corev1.Node
	run, stay bool
	pods      []*corev1.Pod
}

// plan is what is to be done.
type plan struct {
	create []string // names of nodes
	remove []*corev1.Pod
	// ended are those among remove that have ended by themselves.
	ended []*corev1.Pod
	again time.Time
}

// settings are what of a DaemonSet decides.
type settings struct {
	hash               string // of the template as it is
	surge, unavailable int
	rolling            bool
	minReady           int32
}

func settingsOf(ds *appsv1.DaemonSet, hash string, wanted int) (settings, error) {
	s := settings{hash: hash, minReady: ds.Spec.MinReadySeconds, rolling: ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType}
	if r := ds.Spec.UpdateStrategy.RollingUpdate; s.rolling && r != nil {
		for _, v := range []struct {
			from *intstr.IntOrString
			to   *int
		}{{r.MaxSurge, &s.surge}, {r.MaxUnavailable, &s.unavailable}} {
			if v.from == nil {
				continue
			}
			n, err := intstr.GetScaledValueFromIntOrPercent(v.from, wanted, true)
			if err != nil {
				return s, err
			}
			*v.to = n
		}
	}
	if s.rolling && s.surge == 0 {
		s.unavailable = max(1, s.unavailable)
	}
	return s, nil
}

// endedSpacing is how far apart Pods that end by themselves are replaced on a node at least.
const endedSpacing = 10 * time.Second

// manage puts one Pod on each node that is to have one, and takes away what is too much.
func (p *plan) manage(places []*place, s settings, now time.Time) {
	for _, at := range places {
		var live []*corev1.Pod
		for _, pod := range at.pods {
			switch {
			case pod.DeletionTimestamp != nil:
			case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
				if due := pod.CreationTimestamp.Add(endedSpacing); at.stay && due.After(now) {
					p.lookAt(due)
					continue
				}
				if at.stay {
					p.ended = append(p.ended, pod)
				}
				p.remove = append(p.remove, pod)
			default:
				live = append(live, pod)
			}
		}
		switch {
		case !at.stay:
			p.remove = append(p.remove, live...)
		case at.run && len(live) == 0 && len(live) == len(at.pods):
			p.create = append(p.create, at.node.Name)
		case len(live) > 1:
			p.thin(live, s)
		}
	}
}

// thin leaves one Pod on a node, the oldest; in an update by surge an old one may stay until the new one is available.
func (p *plan) thin(live []*corev1.Pod, s settings) {
	slices.SortStableFunc(live, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	if s.surge == 0 {
		p.remove = append(p.remove, live[1:]...)
		return
	}
	current, old := sortOut(live, s.hash)
	if len(current) > 1 {
		p.remove = append(p.remove, current[1:]...)
	}
	if len(old) > 1 {
		p.remove = append(p.remove, old[1:]...)
	}
}

func sortOut(list []*corev1.Pod, hash string) (current, old []*corev1.Pod) {
	for _, p := range list {
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] == hash {
			current = append(current, p)
		} else {
			old = append(old, p)
		}
	}
	return current, old
}

// update takes a rolling update one step on: an old Pod goes as soon as enough nodes are served, one that serves nobody at
// once; by surge the new one comes first.
func (p *plan) update(places []*place, s settings, now time.Time) {
	var ready, surging []*corev1.Pod // old Pods that could go
	var bare []string
	away, extra := 0, 0
	for _, at := range places {
		if !at.run {
			continue
		}
		live := slices.DeleteFunc(slices.Clone(at.pods), func(pod *corev1.Pod) bool { return !pods.Active(pod) })
		current, old := sortOut(live, s.hash)
		served := slices.ContainsFunc(live, func(pod *corev1.Pod) bool { return p.available(pod, s, now) })
		newServes := slices.ContainsFunc(current, func(pod *corev1.Pod) bool { return p.available(pod, s, now) })
		if !served {
			away++
		}
		switch {
		case len(old) == 0:
		case s.surge > 0 && (newServes || !served && len(current) > 0):
			p.remove = append(p.remove, old...)
		case s.surge > 0 && len(current) > 0:
			extra++
		case s.surge > 0 && !served:
			p.remove = append(p.remove, old...)
		case s.surge > 0:
			bare = append(bare, at.node.Name)
		case !served:
			p.remove = append(p.remove, old...)
		default:
			ready = append(ready, old...)
		}
	}
	if s.surge > 0 {
		p.create = append(p.create, bare[:min(len(bare), max(0, s.surge-extra))]...)
		return
	}
	surging = ready[:min(len(ready), max(0, s.unavailable-away))]
	p.remove = append(p.remove, surging...)
}

func (p *plan) available(pod *corev1.Pod, s settings, now time.Time) bool {
	ok, when := pods.Available(pod, s.minReady, now)
	if !ok && !when.IsZero() {
		p.lookAt(when)
	}
	return ok && pod.DeletionTimestamp == nil
}

func (p *plan) lookAt(when time.Time) {
	if p.again.IsZero() || when.Before(p.again) {
		p.again = when
	}
}

// statusOf counts.
func (p *plan) statusOf(ds *appsv1.DaemonSet, places []*place, s settings, now time.Time) appsv1.DaemonSetStatus {
	st := appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, CollisionCount: ds.Status.CollisionCount, Conditions: ds.Status.Conditions}
	for _, at := range places {
		if !at.run {
			if len(at.pods) > 0 {
				st.NumberMisscheduled++
			}
			continue
		}
		st.DesiredNumberScheduled++
		if len(at.pods) == 0 {
			continue
		}
		st.CurrentNumberScheduled++
		// The newest stands for the node.
		newest := slices.MaxFunc(at.pods, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		if newest.Labels[appsv1.ControllerRevisionHashLabelKey] == s.hash {
			st.UpdatedNumberScheduled++
		}
		if slices.ContainsFunc(at.pods, func(pod *corev1.Pod) bool { return pods.Ready(pod) != nil }) {
			st.NumberReady++
		}
		if slices.ContainsFunc(at.pods, func(pod *corev1.Pod) bool { return p.available(pod, s, now) }) {
			st.NumberAvailable++
		}
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	return st
}
