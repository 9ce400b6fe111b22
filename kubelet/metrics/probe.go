package metrics

import "time"

// Probe is what a probe of one container is counted by.
type Probe struct{ Kind, Container, Pod, Namespace, UID string }

// results are the values of label result.
var results = []string{"successful", "failed", "unknown"}

func (p Probe) labels() map[string]string {
	return map[string]string{"probe_type": p.Kind, "container": p.Container, "pod": p.Pod, "namespace": p.Namespace}
}

// Probed tells of a probe's answer: successful, failed or unknown.
func (s *Set) Probed(p Probe, result string, took time.Duration) {
	if s == nil {
		return
	}
	s.probe.WithLabelValues(p.Kind, result, p.Container, p.Pod, p.Namespace, p.UID).Inc()
	s.probeDuration.WithLabelValues(p.Kind, p.Container, p.Pod, p.Namespace).Observe(took.Seconds())
}

// ForgetProbe drops what was counted of a probe that is made no more.
func (s *Set) ForgetProbe(p Probe) {
	if s == nil {
		return
	}
	labels := p.labels()
	s.probeDuration.Delete(labels)
	labels["pod_uid"] = p.UID
	for _, r := range results {
		labels["result"] = r
		s.probe.Delete(labels)
	}
}
