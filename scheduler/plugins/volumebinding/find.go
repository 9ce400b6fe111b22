package volumebinding

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/scheduler/framework"
)

// found is how unbound claims get volumes on one node.
type found struct {
	matches   []match
	provision []*corev1.PersistentVolumeClaim
}

// match is a volume that is there for a claim.
type match struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// find looks for volumes that the node can reach, the smallest that fit, and asks for provisioning where there is none. It
// costs a look at each volume of the claims' classes.
func find(unbound []*corev1.PersistentVolumeClaim, storage *framework.Storage, node *corev1.Node) (out found, ok bool) {
	var toMatch []*corev1.PersistentVolumeClaim
	for _, claim := range unbound {
		switch selected, promised := claim.Annotations[volume.AnnSelectedNode]; {
		case !promised:
			toMatch = append(toMatch, claim)
		case selected != node.Name:
			return found{}, false // it is being provisioned elsewhere
		default:
			out.provision = append(out.provision, claim)
		}
	}
	// Small claims choose first, so that they do not take the volumes that only large ones need.
	slices.SortStableFunc(toMatch, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	chosen := map[string]*corev1.PersistentVolume{}
	for _, claim := range toMatch {
		v, err := volume.FindMatchingVolume(claim, storage.OfClass(volume.GetPersistentVolumeClaimClass(claim)), node, chosen, true, true)
		if err != nil {
			return found{}, false // its selector does not parse, which validation refuses
		}
		if v == nil {
			out.provision = append(out.provision, claim)
			continue
		}
		chosen[v.Name] = v
		out.matches = append(out.matches, match{claim, v})
	}
	for _, claim := range out.provision {
		if !provisionable(claim, storage, node) {
			return found{}, false
		}
	}
	return out, true
}

// room says whether the drivers that are to make the volumes have room for each of them on the node, as far as they report that.
// What other Pods were promised and have not got yet is not taken off.
func (f *found) room(cluster *framework.Cluster, node *corev1.Node) bool {
	return !slices.ContainsFunc(f.provision, func(claim *corev1.PersistentVolumeClaim) bool {
		class := cluster.Storage.Class(volume.GetPersistentVolumeClaimClass(claim))
		size, asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return asked && !cluster.CSI.Room(class, size, node)
	})
}

// provisionable says whether the claim's class can make a volume for the node.
func provisionable(claim *corev1.PersistentVolumeClaim, storage *framework.Storage, node *corev1.Node) bool {
	class := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	if class == nil || class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner {
		return false
	}
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, has := node.Labels[r.Key]
			return !has || !slices.Contains(r.Values, value)
		})
	})
}
