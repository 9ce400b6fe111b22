package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings returns what is accepted in a Pod, or a template of Pods, and is hardly meant. path is that of the template,
// nil for a Pod.
func Warnings(m *metav1.ObjectMeta, s *corev1.PodSpec, path *field.Path) []string {
	w := &warner{meta: m, spec: s, annotations: path.Child("metadata", "annotations"), path: path.Child("spec"), template: path != nil}
	w.nodeLabels()
	w.annotationsOfOld()
	w.volumes()
	w.duplicates()
	w.addresses()
	w.fractions(s.Overhead, w.path.Child("overhead"))
	visit(s, w.path, w.container)
	w.ports()
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.warn(w.path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.selectors()
	return w.list
}

type warner struct {
	meta              *metav1.ObjectMeta
	spec              *corev1.PodSpec
	annotations, path *field.Path
	template          bool
	list              []string
}

func (w *warner) warn(path *field.Path, format string, args ...any) {
	w.list = append(w.list, path.String()+": "+fmt.Sprintf(format, args...))
}

// deprecatedNodeLabels maps labels of nodes to what is said of their use.
var deprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":           `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":             `deprecated since v1.14; use "kubernetes.io/os" instead`,
	corev1.LabelFailureDomainBetaRegion: `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	corev1.LabelFailureDomainBetaZone:   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	corev1.LabelInstanceType:            `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
}

// NodeSelectorWarnings returns what is accepted in a selector of nodes at path and is deprecated; nil is no selector.
func NodeSelectorWarnings(s *metav1.LabelSelector, path *field.Path) []string {
	if s == nil {
		return nil
	}
	w := &warner{}
	for i, e := range s.MatchExpressions {
		if msg, ok := deprecatedNodeLabels[e.Key]; ok {
			w.warn(path.Child("matchExpressions").Index(i).Child("key"), "%s is %s", e.Key, msg)
		}
	}
	for _, key := range sets.List(sets.KeySet(s.MatchLabels)) {
		if msg, ok := deprecatedNodeLabels[key]; ok {
			w.warn(path.Child("matchLabels", key), "%s", msg)
		}
	}
	return w.list
}

func (w *warner) nodeLabels() {
	for _, key := range sets.List(sets.KeySet(w.spec.NodeSelector)) {
		if msg, ok := deprecatedNodeLabels[key]; ok {
			w.warn(w.path.Child("nodeSelector").Key(key), "%s", msg)
		}
	}
	if w.spec.Affinity != nil && w.spec.Affinity.NodeAffinity != nil {
		a, at := w.spec.Affinity.NodeAffinity, w.path.Child("affinity", "nodeAffinity")
		if a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for i := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				w.nodeTerm(&a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i], false,
					at.Child(requiredTerms, "nodeSelectorTerms").Index(i))
			}
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&a.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true,
				at.Child(preferredTerms).Index(i).Child("preference"))
		}
	}
	for i, t := range w.spec.TopologySpreadConstraints {
		at := w.path.Child("topologySpreadConstraints").Index(i)
		if msg, ok := deprecatedNodeLabels[t.TopologyKey]; ok {
			w.warn(at.Child("topologyKey"), "%s is %s", t.TopologyKey, msg)
		}
		if t.LabelSelector == nil {
			w.warn(at.Child("labelSelector"), "%s", matchesNone)
		}
	}
}

// nodeTerm looks at one term; values says to look at the values as well, where they may be what no label can be.
func (w *warner) nodeTerm(t *corev1.NodeSelectorTerm, values bool, path *field.Path) {
	for i, e := range t.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if msg, ok := deprecatedNodeLabels[e.Key]; ok {
			w.warn(at.Child("key"), "%s is %s", e.Key, msg)
		}
		if !values {
			continue
		}
		for j, value := range e.Values {
			for _, msg := range validation.IsValidLabelValue(value) {
				w.warn(at.Child("values").Index(j), "%s is invalid, %s", value, msg)
			}
		}
	}
}

const matchesNone = "a null labelSelector results in matching no pod"

// selectors warns of selectors of Pods that are not there.
func (w *warner) selectors() {
	a := w.spec.Affinity
	if a == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) {
		for i := range required {
			if required[i].LabelSelector == nil {
				w.warn(path.Child(requiredTerms).Index(i).Child("labelSelector"), "%s", matchesNone)
			}
		}
		for i := range preferred {
			if preferred[i].PodAffinityTerm.LabelSelector == nil {
				w.warn(path.Child(preferredTerms).Index(i).Child("podAffinityTerm", "labelSelector"), "%s", matchesNone)
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, w.path.Child("affinity", "podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, w.path.Child("affinity", "podAntiAffinity"))
	}
}

func (w *warner) annotationsOfOld() {
	for _, old := range []struct{ key, msg string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := w.meta.Annotations[old.key]; ok {
			w.warn(w.annotations.Key(old.key), "%s", old.msg)
		}
	}
	w.seccomp(corev1.SeccompPodAnnotationKey, w.spec.SecurityContext != nil && w.spec.SecurityContext.SeccompProfile != nil)
}

func (w *warner) seccomp(key string, field bool) {
	if _, ok := w.meta.Annotations[key]; ok && !field {
		w.warn(w.annotations.Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
	}
}

// volumes warns of the kinds of volumes that have gone out of Kubernetes.
func (w *warner) volumes() {
	tokens := sets.New[string]()
	for i := range w.spec.Volumes {
		vol, at := &w.spec.Volumes[i], w.path.Child("volumes").Index(i)
		for _, gone := range []struct {
			used      bool
			name, msg string
		}{
			{vol.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{vol.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{vol.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{vol.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{vol.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{vol.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{vol.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{vol.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{vol.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if gone.used {
				w.warn(at.Child(gone.name), "%s", gone.msg)
			}
		}
		if e := vol.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			w.fraction(e.VolumeClaimTemplate.Spec.Resources.Requests, corev1.ResourceStorage,
				at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests"))
		}
		if vol.Projected == nil {
			continue
		}
		for _, src := range vol.Projected.Sources {
			if src.ServiceAccountToken != nil {
				tokens.Insert(src.ServiceAccountToken.Path)
			}
		}
	}
	w.tokenPaths(tokens)
}

// tokenPaths warns of files that hide a token, or are hidden by it.
func (w *warner) tokenPaths(tokens sets.Set[string]) {
	for i := range w.spec.Volumes {
		if w.spec.Volumes[i].Projected == nil {
			continue
		}
		at := w.path.Child("volumes").Index(i).Child("projected", "sources")
		hidden := func(path string, at *field.Path) {
			if tokens.Has(path) {
				w.warn(at, "has duplicated path with ServiceAccountToken %q", path)
			}
		}
		for _, src := range w.spec.Volumes[i].Projected.Sources {
			if src.ConfigMap != nil {
				for j, item := range src.ConfigMap.Items {
					hidden(item.Path, at.Child("configMap").Index(j))
				}
			}
			if src.Secret != nil {
				for j, item := range src.Secret.Items {
					hidden(item.Path, at.Child("secrets").Index(j))
				}
			}
			if src.DownwardAPI != nil {
				for j, item := range src.DownwardAPI.Items {
					hidden(item.Path, at.Child("downwardAPI").Index(j))
				}
			}
			if src.ClusterTrustBundle != nil {
				hidden(src.ClusterTrustBundle.Path, at.Child("ClusterTrustBundle"))
			}
		}
	}
}

// duplicates warns of list entries that a merge by key will drop.
func (w *warner) duplicates() {
	ips := sets.New[string]()
	for i, alias := range w.spec.HostAliases {
		if ips.Has(alias.IP) {
			w.warn(w.path.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
		ips.Insert(alias.IP)
	}
	names := sets.New[string]()
	secrets := w.path.Child("imagePullSecrets")
	for i, ref := range w.spec.ImagePullSecrets {
		if names.Has(ref.Name) {
			w.warn(secrets.Index(i).Child("name"), "duplicate name %q", ref.Name)
		}
		names.Insert(ref.Name)
	}
	for i, ref := range w.spec.ImagePullSecrets {
		if ref.Name == "" {
			w.warn(secrets.Index(i).Child("name"), "invalid empty name %q", ref.Name)
		}
	}
}

// addresses warns of addresses that different programs read differently.
func (w *warner) addresses() {
	if w.spec.DNSConfig != nil {
		for i, ip := range w.spec.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(w.path.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, alias := range w.spec.HostAliases {
		w.list = append(w.list, validation.GetWarningsForIP(w.path.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
}

// fractions warns of amounts of bytes that are not whole.
func (w *warner) fractions(l corev1.ResourceList, path *field.Path) {
	w.fraction(l, corev1.ResourceMemory, path)
	w.fraction(l, corev1.ResourceEphemeralStorage, path)
}

func (w *warner) fraction(l corev1.ResourceList, name corev1.ResourceName, path *field.Path) {
	if q, ok := l[name]; ok && q.MilliValue()%1000 != 0 {
		w.warn(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

func (w *warner) container(c *corev1.Container, path *field.Path) {
	s := c.SecurityContext
	w.seccomp(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, s != nil && s.SeccompProfile != nil)
	// Of a Pod's AppArmor annotations is warned when they are turned into fields.
	if w.template {
		key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
		field := w.spec.SecurityContext != nil && w.spec.SecurityContext.AppArmorProfile != nil || s != nil && s.AppArmorProfile != nil
		if _, ok := w.meta.Annotations[key]; ok && !field {
			w.warn(w.annotations.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	}
	w.fractions(c.Resources.Limits, path.Child("resources", "limits"))
	w.fractions(c.Resources.Requests, path.Child("resources", "requests"))
	seen := sets.New[string]()
	for i, e := range c.Env {
		ref := "$(" + e.Name + ")"
		// X=$(X):more is how one adds to a variable; anything else forgets what was there.
		if seen.Has(e.Name) && (e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref)) {
			w.warn(path.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen.Insert(e.Name)
	}
}

// ports warns of ports that are, or may be, the same one.
func (w *warner) ports() {
	type entry struct {
		path *field.Path
		port corev1.ContainerPort
	}
	all := map[string][]entry{}
	visit(w.spec, w.path, func(c *corev1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.warn(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range all[key] {
				o := other.port
				switch {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.warn(at, "duplicate port definition with %s", other.path)
				case p.HostPort == 0 || o.HostPort == 0:
					w.warn(at, "overlapping port definition with %s", other.path)
				case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
					w.warn(at, "dangerously ambiguous port definition with %s", other.path)
				}
			}
			all[key] = append(all[key], entry{at, p})
		}
	})
}
