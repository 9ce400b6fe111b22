// Package criconfig translates a Pod's spec into what CRI asks for: sandbox and
// container configurations, environment, DNS, hosts file. Pure but for the
// objects that an environment refers to.
package criconfig

import (
	v1 "k8s.io/api/core/v1"
)

// Labels and annotations by which a container and a sandbox are recognised
// after a restart; the kubelet of Kubernetes writes the same.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash             = "io.kubernetes.container.hash"
	AnnotationRestartCount     = "io.kubernetes.container.restartCount"
	AnnotationMessagePath      = "io.kubernetes.container.terminationMessagePath"
	AnnotationMessagePolicy    = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPreStop          = "io.kubernetes.container.preStopHandler"
	AnnotationPorts            = "io.kubernetes.container.ports"
	AnnotationTerminationGrace = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationDeletionGrace    = "io.kubernetes.pod.deletionGracePeriod"
	// AnnotationRound is Peapod's own: how often all containers of the Pod were restarted before this instance; absent means never.
	AnnotationRound = "peapod.io/container.round"
)

// Node is what of this node configurations depend on.
type Node struct {
	Name           string
	HostIPs        []string
	ClusterDNS     []string
	ClusterDomain  string
	HostResolv     Resolv
	LogDir         string // of all Pods
	MemoryCapacity int64  // bytes
	// SeccompDefault confines containers that name no seccomp profile.
	SeccompDefault bool
	// SeccompProfileRoot is the directory that Localhost profiles are below: a
	// runtime gets their absolute paths, as CRI has it.
	SeccompProfileRoot string
	// CgroupV2: kill a container's processes together on OOM, no swap.
	CgroupV2 bool
}

// Warning is an event worth recording beside a configuration.
type Warning struct{ Reason, Message string }

// FullName is name_namespace(uid), as messages name a Pod.
func FullName(pod *v1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}
