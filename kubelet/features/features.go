// Package features says which features this kubelet has, of those that Pods may need and that not every version has. Nodes declare
// them, and schedulers leave out the nodes that lack one.
package features

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/inplacepodresize"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/restartallcontainers"
	"k8s.io/component-helpers/nodedeclaredfeatures/types"

	"github.com/peapod/peapod/internal/version"
)

// has are the feature gates of Kubernetes whose features this kubelet has.
var has = types.FeatureGateMap{
	restartallcontainers.RestartAllContainersOnContainerExits: true,
	inplacepodresize.IPPRPodLevelResourcesFeatureGate:         true,
	inplacepodresize.IPPRInitContainersFeatureGate:            true,
}

// Declared are the features of this kubelet, sorted.
func Declared() []string {
	return nodedeclaredfeatures.DefaultFramework.DiscoverNodeFeatures(&nodedeclaredfeatures.NodeConfiguration{FeatureGates: has, Version: version.Served})
}

// Missing are the features that the Pod needs and this kubelet has not, sorted.
func Missing(p *v1.Pod) ([]string, error) {
	f := nodedeclaredfeatures.DefaultFramework
	needed, err := f.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &p.Spec, Status: &p.Status}, version.Served)
	if err != nil || needed.IsEmpty() {
		return nil, err
	}
	match, err := f.MatchNodeFeatureSet(needed, f.TryMap(Declared()))
	if err != nil {
		return nil, err
	}
	return match.UnsatisfiedRequirements, nil
}
