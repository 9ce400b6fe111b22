package allocation

import (
	"encoding/json"

	v1 "k8s.io/api/core/v1"
)

// summary is what an event about a resize tells, as Kubernetes writes it.
type summary struct {
	Resources      *v1.ResourceRequirements `json:"resources,omitempty"`
	InitContainers []share                  `json:"initContainers,omitempty"`
	Containers     []share                  `json:"containers,omitempty"`
	Generation     int64                    `json:"generation"`
	Error          string                   `json:"error,omitempty"`
}

type share struct {
	Name      string                  `json:"name"`
	Resources v1.ResourceRequirements `json:"resources"`
}

// Message is the text of an event about a resize of the Pod to what its spec
// says: "Pod resize started", for example, and the details as JSON.
func Message(what string, pod *v1.Pod, generation int64, problem string) string {
	s := summary{Resources: pod.Spec.Resources, Generation: generation, Error: problem}
	shares := func(list []v1.Container) (out []share) {
		for i := range list {
			out = append(out, share{list[i].Name, list[i].Resources})
		}
		return out
	}
	s.InitContainers, s.Containers = shares(pod.Spec.InitContainers), shares(pod.Spec.Containers)
	data, err := json.Marshal(s)
	if err != nil { // no value of these types is without JSON
		return what
	}
	return what + ": " + string(data)
}
