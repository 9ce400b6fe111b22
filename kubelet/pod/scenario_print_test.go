package pod

import (
	"fmt"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
)

func (s *scenario) describe(a Action) string {
	text := string(a.Kind)
	switch a.Kind {
	case StartContainer:
		text += fmt.Sprintf(" %s #%d", a.Container, a.RestartCount)
	case StopContainer:
		text += fmt.Sprintf(" %s within %s", a.Container, a.By.Sub(s.in.Now))
		if !a.PreStop {
			text += ", no hook"
		}
	case CreateSandbox:
		text += fmt.Sprintf(" #%d", a.Attempt)
	case RemoveContainer:
		text += " " + a.ID
	}
	return text
}

// summary is a status in a few lines.
func summary(st *v1.PodStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  = %s", st.Phase)
	if st.Reason != "" {
		fmt.Fprintf(&b, " %s (%s)", st.Reason, st.Message)
	}
	var yes []string
	for _, c := range st.Conditions {
		text := string(c.Type)
		if c.Status != v1.ConditionTrue {
			text = "!" + text
		}
		if c.Reason != "" {
			text += "=" + c.Reason
		}
		yes = append(yes, text)
	}
	sort.Strings(yes)
	fmt.Fprintf(&b, "\n    %s\n", strings.Join(yes, " "))
	for _, list := range [][]v1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			fmt.Fprintf(&b, "    %s: %s", c.Name, stateText(&c.State))
			if last := stateText(&c.LastTerminationState); last != "" {
				fmt.Fprintf(&b, "; before: %s", last)
			}
			if c.RestartCount > 0 {
				fmt.Fprintf(&b, "; restarts %d", c.RestartCount)
			}
			if c.Ready {
				b.WriteString("; ready")
			} else if c.Started != nil && *c.Started {
				b.WriteString("; started")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func stateText(s *v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Waiting != nil && s.Waiting.Message != "":
		return fmt.Sprintf("waiting %s (%s)", s.Waiting.Reason, s.Waiting.Message)
	case s.Waiting != nil:
		return "waiting " + s.Waiting.Reason
	case s.Terminated != nil:
		return fmt.Sprintf("exited %d %s", s.Terminated.ExitCode, s.Terminated.Reason)
	}
	return ""
}
