package framework

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// Claim is a persistent volume claim that a Pod names, or that is made for it.
type Claim struct {
	types.NamespacedName
	// Ephemeral claims are made for the Pod and must be its own.
	Ephemeral bool
}

// claimsOf returns the claims of p, each once.
func claimsOf(p *corev1.Pod) []Claim {
	var out []Claim
	for i := range p.Spec.Volumes {
		c := Claim{}
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			c.Name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			c.Name, c.Ephemeral = ephemeral.VolumeClaimName(p, v), true
		default:
			continue
		}
		c.Namespace = p.Namespace
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// Uses says whether the Pod uses the claim.
func (p *Pod) Uses(claim types.NamespacedName) bool {
	return slices.ContainsFunc(p.Claims, func(c Claim) bool { return c.NamespacedName == claim })
}

// VolumePlan is what has to be written so that a Pod's claims are bound to volumes that its node can reach: the objects as
// they are to be.
type VolumePlan struct {
	// Volumes are bound to their claims in spec.claimRef, Claims have the node's name in an annotation, for which their
	// provisioner waits.
	Volumes []*corev1.PersistentVolume
	Claims  []*corev1.PersistentVolumeClaim
	// Waited are the claims that must be bound before the Pod can be: those of Volumes, those in Claims, and those for
	// which another Pod's plan has arranged the same.
	Waited []types.NamespacedName
}

// Storage is what the scheduler knows of claims, volumes and classes. A plan that is assumed counts as written, until it
// is released.
type Storage struct {
	claims  map[types.NamespacedName]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	// ofClass are the volumes of each class, by name, so that equal choices fall the same way.
	ofClass map[string][]*corev1.PersistentVolume
	// The objects of plans, in the order in which they were assumed: the last one counts.
	assumed        []assumption
	assumedClaims  map[types.NamespacedName]*corev1.PersistentVolumeClaim
	assumedVolumes map[string]*corev1.PersistentVolume
}

type assumption struct {
	pod  types.UID
	plan *VolumePlan
}

// NewStorage returns one that knows nothing.
func NewStorage() *Storage {
	return &Storage{
		claims: map[types.NamespacedName]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
		classes: map[string]*storagev1.StorageClass{}, ofClass: map[string][]*corev1.PersistentVolume{},
		assumedClaims: map[types.NamespacedName]*corev1.PersistentVolumeClaim{}, assumedVolumes: map[string]*corev1.PersistentVolume{},
	}
}

// Key names a claim.
func Key(c *corev1.PersistentVolumeClaim) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// Claim returns a claim, nil if there is none. What is assumed of it ends to count when it has a volume.
func (s *Storage) Claim(key types.NamespacedName) *corev1.PersistentVolumeClaim {
	written := s.claims[key]
	if c := s.assumedClaims[key]; c != nil && written != nil && written.UID == c.UID && written.Spec.VolumeName == "" {
		return c
	}
	return written
}

// Volume returns a volume, nil if there is none. What is assumed of it ends to count when it has a claim.
func (s *Storage) Volume(name string) *corev1.PersistentVolume {
	written := s.volumes[name]
	if v := s.assumedVolumes[name]; v != nil && written != nil && written.UID == v.UID && (written.Spec.ClaimRef == nil || written.Spec.ClaimRef.UID == "") {
		return v
	}
	return written
}

// Class returns a storage class, nil if there is none.
func (s *Storage) Class(name string) *storagev1.StorageClass { return s.classes[name] }

// OfClass returns the volumes of a class, by name; the empty class is one too. The caller does not change the list.
func (s *Storage) OfClass(name string) []*corev1.PersistentVolume {
	list := s.ofClass[name]
	if len(s.assumedVolumes) == 0 {
		return list
	}
	list = slices.Clone(list)
	for i, v := range list {
		list[i] = s.Volume(v.Name)
	}
	return list
}

// WrittenClaim and WrittenVolume return what the API has shown, whatever is assumed.
func (s *Storage) WrittenClaim(key types.NamespacedName) *corev1.PersistentVolumeClaim {
	return s.claims[key]
}

// WrittenVolume is described at WrittenClaim.
func (s *Storage) WrittenVolume(name string) *corev1.PersistentVolume { return s.volumes[name] }

// SetClaim takes in a claim that appeared or changed.
func (s *Storage) SetClaim(c *corev1.PersistentVolumeClaim) { s.claims[Key(c)] = c }

// RemoveClaim takes in that a claim has gone.
func (s *Storage) RemoveClaim(c *corev1.PersistentVolumeClaim) { delete(s.claims, Key(c)) }

// SetVolume takes in a volume that appeared or changed.
func (s *Storage) SetVolume(v *corev1.PersistentVolume) {
	if old := s.volumes[v.Name]; old != nil {
		s.RemoveVolume(old)
	}
	s.volumes[v.Name] = v
	class := volume.GetPersistentVolumeClass(v)
	list := s.ofClass[class]
	at, _ := slices.BinarySearchFunc(list, v.Name, byName)
	s.ofClass[class] = slices.Insert(list, at, v)
}

// RemoveVolume takes in that a volume has gone.
func (s *Storage) RemoveVolume(v *corev1.PersistentVolume) {
	old := s.volumes[v.Name]
	if old == nil {
		return
	}
	delete(s.volumes, v.Name)
	class := volume.GetPersistentVolumeClass(old)
	list := s.ofClass[class]
	if at, found := slices.BinarySearchFunc(list, v.Name, byName); found {
		list = slices.Delete(list, at, at+1)
	}
	if s.ofClass[class] = list; len(list) == 0 {
		delete(s.ofClass, class)
	}
}

func byName(v *corev1.PersistentVolume, name string) int { return cmp.Compare(v.Name, name) }

// SetClass takes in a class that appeared or changed.
func (s *Storage) SetClass(c *storagev1.StorageClass) { s.classes[c.Name] = c }

// RemoveClass takes in that a class has gone.
func (s *Storage) RemoveClass(c *storagev1.StorageClass) { delete(s.classes, c.Name) }

// Assume counts a Pod's plan as written.
func (s *Storage) Assume(pod types.UID, plan *VolumePlan) {
	s.assumed = append(s.assumed, assumption{pod, plan})
	s.overlay()
}

// Release ends what was assumed for a Pod, because the API shows it or because it has failed.
func (s *Storage) Release(pod types.UID) {
	s.assumed = slices.DeleteFunc(s.assumed, func(a assumption) bool { return a.pod == pod })
	s.overlay()
}

// overlay works out which objects are assumed. It costs a look at each plan that is being written.
func (s *Storage) overlay() {
	clear(s.assumedClaims)
	clear(s.assumedVolumes)
	for _, a := range s.assumed {
		for _, v := range a.plan.Volumes {
			s.assumedVolumes[v.Name] = v
		}
		for _, c := range a.plan.Claims {
			s.assumedClaims[Key(c)] = c
		}
	}
}
