// Package nodedeclaredfeatures keeps Pods off nodes that do not declare what the Pods need: features that not every version of a
// kubelet, or not every runtime, has.
package nodedeclaredfeatures

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/peapod/peapod/internal/version"
	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "NodeDeclaredFeatures" }

// Prepare implements framework.Filter. Most Pods need no such feature, and then no node is asked.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	needed, err := needs(pod)
	switch {
	case err != nil:
		return nil, framework.Reason{Verdict: framework.Wrong, Message: err.Error()}
	case needed.IsEmpty():
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		if !declares(n.Node, needed) {
			return []framework.Reason{{Verdict: framework.Wrong, Message: "node(s) didn't match Pod's required features"}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node that has all that the Pod needs and was not there, or declared other features.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	other := func(old, new *corev1.Node) bool {
		return !slices.Equal(old.Status.DeclaredFeatures, new.Status.DeclaredFeatures)
	}
	if !e.NodeAppearedOr(other) {
		return false
	}
	needed, err := needs(pod)
	return err == nil && declares(e.NewNode, needed)
}

// needs are the features without which a node cannot run the Pod.
func needs(pod *framework.Pod) (nodedeclaredfeatures.FeatureSet, error) {
	needed, err := nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec}, version.Served)
	if err != nil {
		return needed, fmt.Errorf("find the features that the Pod needs: %w", err)
	}
	return needed, nil
}

// declares says whether the node has the features.
func declares(n *corev1.Node, needed nodedeclaredfeatures.FeatureSet) bool {
	has, err := needed.IsSubset(nodedeclaredfeatures.DefaultFramework.TryMap(n.Status.DeclaredFeatures))
	return err == nil && has // both are sets of one framework's features, which can be compared
}
