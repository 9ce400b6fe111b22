package admit

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestPreempt: a critical Pod is given what others have, as little of it and of as low a class of service as can be.
func TestPreempt(t *testing.T) {
	node := &v1.Node{}
	if err := yaml.UnmarshalStrict([]byte("{metadata: {name: n1}, status: {allocatable: {cpu: '2', memory: 1Gi, pods: '6'}}}"), node); err != nil {
		t.Fatal(err)
	}
	pod := func(name, requests, rest string) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := yaml.UnmarshalStrict([]byte("{nodeName: n1, containers: [{name: c, resources: "+requests+"}]"+rest+"}"), &p.Spec); err != nil {
			t.Fatal(err)
		}
		return p
	}
	burstable := func(cpu, memory string) string { return "{requests: {cpu: " + cpu + ", memory: " + memory + "}}" }
	guaranteed := func(cpu, memory string) string {
		return "{limits: {cpu: " + cpu + ", memory: " + memory + "}, requests: {cpu: " + cpu + ", memory: " + memory + "}}"
	}
	const critical, ordinary = ", priority: 2000000000", ", priority: 5"
	others := []*v1.Pod{
		pod("effortless", "{}", ""), pod("big", burstable("700m", "300Mi"), ""), pod("small", burstable("200m", "100Mi"), ordinary),
		pod("sure", guaranteed("600m", "200Mi"), ordinary), pod("vital", burstable("400m", "100Mi"), critical),
	}
	for _, c := range []struct{ what, requests, rest, want string }{
		{"it fits", burstable("100m", "1Mi"), critical, "[]"},
		{"one is enough, the smaller", burstable("300m", "1Mi"), critical, "OutOfcpu [small]"},
		{"one of them is enough", burstable("400m", "1Mi"), critical, "OutOfcpu [big]"},
		{"two resources, of which one Pod has most", burstable("300m", "500Mi"), critical, "OutOfcpu [big]"},
		{"both burstable ones", burstable("1000m", "1Mi"), critical, "OutOfcpu [big small]"},
		{"more than they have: the guaranteed one, and of the others what is still needed", burstable("1050m", "1Mi"), critical, "OutOfcpu [big sure]"},
		{"all", burstable("1600m", "1Mi"), critical, "OutOfcpu [big small sure]"},
		{"more than there is", burstable("1700m", "1Mi"), critical, "UnexpectedAdmissionError [] Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"},
		{"another critical one of lower priority", burstable("1700m", "1Mi"), ", priority: 2000001000", "OutOfcpu [big vital sure]"},
		{"not critical", burstable("300m", "1Mi"), ", priority: 1999999999", "OutOfcpu []"},
		{"something else is wrong, too", burstable("300m", "1Mi"), critical + ", nodeSelector: {gpu: 'true'}", "NodeAffinity []"},
		{"what nobody here has", burstable("300m", "1Mi"), critical + ", hostNetwork: true, hostUsers: false", "PodFeatureUnsupported []"},
	} {
		got := []string{}
		reason := ""
		r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Admit(t.Context(), pod("new", c.requests, c.rest), others)
		if r != nil {
			reason = r.Reason + " "
			for _, p := range r.Preempt {
				got = append(got, p.Name)
			}
		}
		out := fmt.Sprint(reason, got)
		if r != nil && r.Reason == "UnexpectedAdmissionError" {
			out += " " + r.Message
		}
		if out != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, out, c.want)
		}
	}
	// The number of Pods is something that they have, too: who asks for least goes.
	sixth := append(others, pod("sixth", burstable("1m", "1Mi"), ""))
	r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Admit(t.Context(), pod("new", "{}", critical), sixth)
	if r == nil || r.Reason != "OutOfpods" || len(r.Preempt) != 1 || r.Preempt[0].Name != "effortless" {
		t.Errorf("a seventh Pod: %+v", r)
	}
}
