package static

import (
	v1 "k8s.io/api/core/v1"
)

// Annotations of static Pods. The hash is the Pod's UID here; mirrors have it twice, since the API gives them a UID of their own.
const (
	sourceAnnotation = "kubernetes.io/config.source"
	hashAnnotation   = "kubernetes.io/config.hash"
	seenAnnotation   = "kubernetes.io/config.seen"
	mirrorAnnotation = v1.MirrorPodAnnotationKey
)

// What the source may be.
const (
	sourceFile = "file"
	sourceAPI  = "api"
)

// Is says whether a Pod is the node's own, from a file. It believes the Pod: those of the API go through Foreign first.
func Is(p *v1.Pod) bool {
	source, ok := p.Annotations[sourceAnnotation]
	return ok && source != sourceAPI
}

// IsMirror says whether a Pod of the API only shows another one, which its node has from a file.
func IsMirror(p *v1.Pod) bool {
	_, ok := p.Annotations[mirrorAnnotation]
	return ok
}

// Foreign returns a Pod of the API as the kubelet may have it: whoever wrote it cannot pass it for one of the node's own.
func Foreign(p *v1.Pod) *v1.Pod {
	if !Is(p) {
		return p
	}
	p = p.DeepCopy()
	p.Annotations[sourceAnnotation] = sourceAPI
	return p
}

// critical is the lowest priority of Pods that the cluster does not work without.
const critical = 2_000_000_000

// systemPriorities are the priorities that every cluster has, and that need not be asked for.
var systemPriorities = map[string]int32{"system-node-critical": critical + 1000, "system-cluster-critical": critical}

// Critical says whether a Pod must not be ended for others: the node or the cluster does not work without it.
func Critical(p *v1.Pod) bool {
	return Is(p) || IsMirror(p) || (p.Spec.Priority != nil && *p.Spec.Priority >= critical)
}
