package node

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/internal/localpath"
)

// Resources that nodes reach through what runs on them.
const (
	pods                   = "pods"
	secrets                = "secrets"
	configMaps             = "configmaps"
	serviceAccounts        = "serviceaccounts"
	persistentVolumes      = "persistentvolumes"
	persistentVolumeClaims = "persistentvolumeclaims"
	resourceClaims         = "resourceclaims"
	volumeAttachments      = "volumeattachments"

	// localVolumes are those persistent volumes that the built-in provisioner has put on a node.
	localVolumes = "persistentvolumes of " + localpath.Provisioner
)

// object is one API object.
type object struct{ resource, namespace, name string }

// Graph knows which objects each node has to do with:
//
//	node <- pod <- secret, configmap, serviceaccount, resourceclaim, persistentvolumeclaim
//	               persistentvolumeclaim <- persistentvolume <- secret
//	node <- volumeattachment, persistentvolume of the built-in provisioner
//
// It is fed by informers. Its zero value is not usable.
type Graph struct {
	mu sync.RWMutex
	// pods are those on a node, with what they brought into nodes.
	pods map[types.NamespacedName]placed
	// nodes counts, for an object and a node, the reasons for which the node may have it.
	nodes map[object]map[string]int
	// volumes are the persistent volumes that are bound, by name, and volumesOf the volumes that need a secret.
	volumes   map[string]bound
	volumesOf map[object]map[string]bool
	// direct are the objects that name their node themselves.
	direct map[object]string
	// grown is closed and replaced whenever a node may get at more than before.
	grown chan struct{}
}

type placed struct {
	uid  types.UID
	node string
	refs []object
}

type bound struct {
	claim   object
	secrets []object
}

// NewGraph makes an empty graph.
func NewGraph() *Graph {
	return &Graph{pods: map[types.NamespacedName]placed{}, nodes: map[object]map[string]int{}, volumes: map[string]bound{},
		volumesOf: map[object]map[string]bool{}, direct: map[object]string{}, grown: make(chan struct{})}
}

// grew tells those who wait. The caller holds mu.
func (g *Graph) grew() {
	close(g.grown)
	g.grown = make(chan struct{})
}

// SetPod takes in a Pod as it is now.
func (g *Graph) SetPod(pod *corev1.Pod) {
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	now := placed{uid: pod.UID, node: pod.Spec.NodeName}
	if now.node != "" {
		now.refs = append(now.refs, object{pods, pod.Namespace, pod.Name})
		// A node writes mirror Pods itself: they give it nothing.
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
			seen := map[object]bool{}
			for resource, name := range References(pod) {
				if o := (object{resource, pod.Namespace, name}); !seen[o] {
					seen[o] = true
					now.refs = append(now.refs, o)
				}
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range now.refs {
		g.count(o, now.node, 1)
	}
	g.forgetPod(key)
	if now.node != "" {
		g.pods[key] = now
		g.grew()
	}
}

// DeletePod forgets a Pod.
func (g *Graph) DeletePod(pod *corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetPod(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
}

func (g *Graph) forgetPod(key types.NamespacedName) {
	old := g.pods[key]
	for _, o := range old.refs {
		g.count(o, old.node, -1)
	}
	delete(g.pods, key)
}

// count adds n reasons for which node may have o.
func (g *Graph) count(o object, node string, n int) {
	byNode := g.nodes[o]
	if byNode == nil {
		byNode = map[string]int{}
		g.nodes[o] = byNode
	}
	byNode[node] += n
	if byNode[node] == 0 {
		delete(byNode, node)
	}
	if len(byNode) == 0 {
		delete(g.nodes, o)
	}
}

// SetVolume takes in a persistent volume as it is now.
func (g *Graph) SetVolume(pv *corev1.PersistentVolume) {
	g.setDirect(object{localVolumes, "", pv.Name}, localpath.Node(pv))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetVolume(pv.Name)
	claim := pv.Spec.ClaimRef
	if claim == nil {
		return
	}
	now := bound{claim: object{persistentVolumeClaims, claim.Namespace, claim.Name}, secrets: volumeSecrets(pv)}
	g.volumes[pv.Name] = now
	for _, s := range now.secrets {
		if g.volumesOf[s] == nil {
			g.volumesOf[s] = map[string]bool{}
		}
		g.volumesOf[s][pv.Name] = true
	}
	g.grew()
}

// DeleteVolume forgets a persistent volume.
func (g *Graph) DeleteVolume(pv *corev1.PersistentVolume) {
	g.setDirect(object{localVolumes, "", pv.Name}, "")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetVolume(pv.Name)
}

func (g *Graph) forgetVolume(name string) {
	for _, s := range g.volumes[name].secrets {
		delete(g.volumesOf[s], name)
		if len(g.volumesOf[s]) == 0 {
			delete(g.volumesOf, s)
		}
	}
	delete(g.volumes, name)
}

// SetAttachment takes in an object that names its node itself; DeleteAttachment forgets it.
func (g *Graph) SetAttachment(a *storagev1.VolumeAttachment) {
	g.setDirect(object{volumeAttachments, "", a.Name}, a.Spec.NodeName)
}

// DeleteAttachment is described at SetAttachment.
func (g *Graph) DeleteAttachment(a *storagev1.VolumeAttachment) {
	g.setDirect(object{volumeAttachments, "", a.Name}, "")
}

func (g *Graph) setDirect(o object, node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if node == "" {
		delete(g.direct, o)
		return
	}
	g.direct[o] = node
	g.grew()
}

// related says whether node has to do with o, and what is closed when the answer may turn to yes.
func (g *Graph) related(node string, o object) (bool, <-chan struct{}) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.nodes[o][node] > 0 || g.direct[o] == node && node != "" {
		return true, nil
	}
	switch o.resource {
	case persistentVolumes:
		return g.nodes[g.volumes[o.name].claim][node] > 0, g.grown
	case secrets:
		for pv := range g.volumesOf[o] {
			if g.nodes[g.volumes[pv].claim][node] > 0 {
				return true, nil
			}
		}
	}
	return false, g.grown
}

// Related says whether node has to do with o. A kubelet acts on a Pod at the moment when it is bound, at which the
// informer that feeds the graph may be behind the kubelet's own: so no is said only after patience.
func (g *Graph) Related(ctx context.Context, node string, o object, patience time.Duration) bool {
	yes, grown := g.related(node, o)
	if yes {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-grown:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
		if yes, grown = g.related(node, o); yes {
			return true
		}
	}
}

// PodChanged says whether a graph that knows old must be told of pod. Most updates are of the status and change nothing
// that matters here.
func PodChanged(old, pod *corev1.Pod) bool {
	return old.UID != pod.UID || old.Spec.NodeName != pod.Spec.NodeName ||
		len(old.Spec.EphemeralContainers) != len(pod.Spec.EphemeralContainers) ||
		!equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) ||
		!equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus)
}
