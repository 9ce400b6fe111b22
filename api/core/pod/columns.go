package pod

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/table"
)

// Columns implements resource.Printer.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		table.Text("Status", "The aggregate status of the containers in this pod."),
		table.Text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		table.Age(),
		table.Wide(table.Text("IP", status["podIP"])),
		table.Wide(table.Text("Node", spec["nodeName"])),
		table.Wide(table.Text("Nominated Node", status["nominatedNodeName"])),
		table.Wide(table.Text("Readiness Gates", spec["readinessGates"])),
	}
}

// Row implements resource.Printer.
func (kind) Row(p *corev1.Pod) ([]any, error) {
	s := summarize(p)
	return []any{
		p.Name,
		fmt.Sprintf("%d/%d", s.ready, s.total),
		s.reason,
		restartsCell(s.restarts, s.restartedAt),
		table.Since(p.CreationTimestamp),
		table.OrNone(firstIP(p)),
		table.OrNone(p.Spec.NodeName),
		table.OrNone(p.Status.NominatedNodeName),
		gatesCell(p),
	}, nil
}

// summary is what a row says of a Pod's containers.
type summary struct {
	reason       string
	ready, total int
	restarts     int
	restartedAt  metav1.Time
}

// summarize folds the states of the containers of p into the few words of a row. The order of the steps is the order of
// precedence: initialisation hides the containers, deletion hides all but an end.
func summarize(p *corev1.Pod) summary {
	s := summary{reason: string(p.Status.Phase), total: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars, initializing := s.addInit(p)
	if !initializing || isTrue(p, corev1.PodInitialized) {
		s.restarts, s.restartedAt = sidecars.restarts, sidecars.restartedAt
		s.addContainers(p)
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			s.reason = "Unknown"
		case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
			s.reason = "Terminating"
		}
	}
	return s
}

// addInit looks at the init containers in order, up to the first that is not done. It returns what of the sidecars among
// them belongs to the running Pod, and whether one was not done.
func (s *summary) addInit(p *corev1.Pod) (sidecars summary, initializing bool) {
	sidecar := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecar[c.Name] = true
			s.total++
		}
	}
	for i, c := range p.Status.InitContainerStatuses {
		s.addRestarts(c)
		if sidecar[c.Name] {
			sidecars.addRestarts(c)
		}
		done := c.State.Terminated
		switch {
		case done != nil && done.ExitCode == 0:
			continue
		case sidecar[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case done != nil:
			s.reason = "Init:" + endReason(done)
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			s.reason = "Init:" + c.State.Waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return sidecars, true
	}
	return sidecars, false
}

// addContainers looks at the containers; of several with something to say the first in the list is heard.
func (s *summary) addContainers(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := p.Status.ContainerStatuses[i]
		s.addRestarts(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = endReason(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	// One container has completed while others go on: the Pod is as ready as its conditions say.
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if isTrue(p, corev1.PodReady) {
			s.reason = "Running"
		}
	}
}

func (s *summary) addRestarts(c corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.restartedAt.Before(&t.FinishedAt) {
		s.restartedAt = t.FinishedAt
	}
}

// endReason says why a container ended where nobody has given a reason: the signal, or the exit code.
func endReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func restartsCell(n int, last metav1.Time) string {
	if n == 0 || last.IsZero() {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d (%s ago)", n, table.Since(last))
}

func gatesCell(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return table.None
	}
	open := 0
	for _, gate := range p.Spec.ReadinessGates {
		if isTrue(p, gate.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}

// isTrue says whether the first condition of type t is true.
func isTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func firstIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) > 0 {
		return p.Status.PodIPs[0].IP
	}
	return p.Status.PodIP
}
