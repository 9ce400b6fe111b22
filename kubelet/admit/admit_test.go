package admit

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const nodeDoc = `
metadata: {name: n1, labels: {gpu: "true", kubernetes.io/os: linux}}
spec: {taints: [{key: no, effect: NoExecute}, {key: soft, effect: NoSchedule}]}
status: {allocatable: {cpu: "2", memory: 1Gi, pods: "3", example.com/dev: "1"}}
`

// TestResize tells what does not fit now from what never will; what others have counts, not what they ask for.
func TestResize(t *testing.T) {
	node, o := &v1.Node{}, &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(nodeDoc), node); err != nil {
		t.Fatal(err)
	}
	const other = `
spec: {containers: [{name: c, resources: {requests: {cpu: 500m}}}]}
status: {containerStatuses: [{name: c, allocatedResources: {cpu: 500m}, resources: {requests: {cpu: 700m}}}]}`
	if err := yaml.Unmarshal([]byte(other), o); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ requests, reason, message string }{
		{"{cpu: 1300m, memory: 1Gi}", "", ""},
		{"{cpu: 1301m}", "Deferred", "Node didn't have enough resource: cpu, requested: 1301, used: 700, capacity: 2000"},
		{"{cpu: 2001m}", "Infeasible", "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000"},
		{"{cpu: 2001m, memory: 2Gi}", "Infeasible", "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824"},
	} {
		p := &v1.Pod{}
		if err := yaml.UnmarshalStrict([]byte("{containers: [{name: c, resources: {requests: "+c.requests+"}}]}"), &p.Spec); err != nil {
			t.Fatal(err)
		}
		reason, message := "", ""
		if r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Resize(t.Context(), p, []*v1.Pod{o}); r != nil {
			reason, message = r.Reason, r.Message
		}
		if reason != c.reason || message != c.message {
			t.Errorf("%s:\n got %s %s\nwant %s %s", c.requests, reason, message, c.reason, c.message)
		}
	}
	if r := New(func() (*v1.Node, error) { return nil, errors.New("x") }, nil, nil).Resize(t.Context(), &v1.Pod{}, nil); r == nil || r.Reason != "Deferred" {
		t.Errorf("without a node: %+v", r)
	}
}

func TestAdmit(t *testing.T) {
	node := &v1.Node{}
	if err := yaml.UnmarshalStrict([]byte(nodeDoc), node); err != nil {
		t.Fatal(err)
	}
	const other = "{nodeName: n1, containers: [{name: c, resources: {requests: {cpu: 1500m}}, ports: [{containerPort: 1, hostPort: 80}]}]}"
	const tolerant = "tolerations: [{key: no, operator: Exists}], nodeName: n1"
	for _, c := range []struct{ spec, reason, message string }{
		{"{" + tolerant + ", containers: [{name: c, resources: {requests: {cpu: 500m}}}]}", "", ""},
		{"{" + tolerant + ", containers: [{name: c, resources: {requests: {cpu: 501m}}}]}", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		{"{" + tolerant + ", containers: [{name: c, resources: {requests: {memory: 2Gi}}}]}", "OutOfmemory", "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{"{" + tolerant + ", containers: [{name: c, resources: {requests: {example.com/dev: 2}}}]}", "OutOfexample.com/dev", "Node didn't have enough resource: example.com/dev, requested: 2, used: 0, capacity: 1"},
		{"{" + tolerant + ", containers: [{name: c, resources: {requests: {example.com/unknown: 2}}}]}", "", ""},
		{"{" + tolerant + ", initContainers: [{name: i, resources: {requests: {cpu: 900m}}}], containers: [{name: c}]}", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 900, used: 1500, capacity: 2000"},
		{"{" + tolerant + ", nodeSelector: {gpu: 'true'}}", "", ""},
		{"{" + tolerant + ", nodeSelector: {gpu: 'false'}}", "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"{" + tolerant + ", nodeSelector: {kubernetes.io/os: windows}}", "PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"},
		{"{" + tolerant + ", os: {name: windows}}", "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
		{"{" + tolerant + ", containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}", "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{"{" + tolerant + ", containers: [{name: c, ports: [{containerPort: 1, hostPort: 80, protocol: UDP}]}]}", "", ""},
		{"{" + tolerant + ", containers: [{name: c, restartPolicyRules: [{action: RestartAllContainers}]}]}", "", ""},
		{"{" + tolerant + ", hostNetwork: true, hostUsers: false}", "PodFeatureUnsupported", "Pod requires node features that are not available: UserNamespacesHostNetworkSupport"},
		{"{nodeName: n1}", "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"},
	} {
		p, o := &v1.Pod{}, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
		if err := yaml.UnmarshalStrict([]byte(c.spec), &p.Spec); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(other), &o.Spec); err != nil {
			t.Fatal(err)
		}
		reason, message := "", ""
		if r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Admit(t.Context(), p, []*v1.Pod{o}); r != nil {
			reason, message = r.Reason, r.Message
		}
		if reason != c.reason || message != c.message {
			t.Errorf("%s:\n got %s %s\nwant %s %s", c.spec, reason, message, c.reason, c.message)
		}
	}
	full := []*v1.Pod{{}, {}, {}}
	if r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Admit(t.Context(), &v1.Pod{}, full); r == nil || r.Reason != "OutOfpods" {
		t.Errorf("a fourth pod: %+v", r)
	}
	if r := New(func() (*v1.Node, error) { return nil, errors.New("x") }, nil, nil).Admit(t.Context(), &v1.Pod{}, nil); r == nil || r.Reason != "InvalidNodeInfo" {
		t.Errorf("without a node: %+v", r)
	}
}

// What a Pod has as devices of a claim takes nothing of what the node counts; the same names without a claim do.
func TestAdmitClaimedResources(t *testing.T) {
	node := &v1.Node{}
	if err := yaml.UnmarshalStrict([]byte(nodeDoc), node); err != nil {
		t.Fatal(err)
	}
	const class = "deviceclass.resource.kubernetes.io/gpu"
	ask := func(name v1.ResourceName, claimed bool) *v1.Pod {
		p := &v1.Pod{}
		spec := "{tolerations: [{key: no, operator: Exists}], nodeName: n1, containers: [{name: c, resources: {requests: {" + string(name) + ": 1}}}]}"
		if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
			t.Fatal(err)
		}
		if claimed {
			p.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{ResourceClaimName: "made",
				RequestMappings: []v1.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: string(name), RequestName: "r"}}}
		}
		return p
	}
	for what, c := range map[string]struct {
		pod, other *v1.Pod
		reason     string
	}{
		"of a claim":                    {ask(class, true), ask(class, true), ""},
		"without one":                   {ask(class, false), ask(class, true), "OutOf" + class},
		"the node's, another's claimed": {ask("example.com/dev", false), ask("example.com/dev", true), ""},
		"the node's, taken":             {ask("example.com/dev", false), ask("example.com/dev", false), "OutOfexample.com/dev"},
		"claimed, the node's taken":     {ask("example.com/dev", true), ask("example.com/dev", false), ""},
	} {
		reason := ""
		if r := New(func() (*v1.Node, error) { return node, nil }, nil, nil).Admit(t.Context(), c.pod, []*v1.Pod{c.other}); r != nil {
			reason = r.Reason
		}
		if reason != c.reason {
			t.Errorf("%s: %q", what, reason)
		}
	}
}

// Who gets devices of plugins is not decided by their number here.
func TestDevicesOfPlugins(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{"example.com/gpu": resource.MustParse("0")}}}
	p := &v1.Pod{Spec: v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"example.com/gpu": resource.MustParse("1")}}}}}}
	for plugged, want := range map[v1.ResourceName]string{"example.com/gpu": "", "example.com/other": "OutOfexample.com/gpu"} {
		reason := ""
		if r := New(func() (*v1.Node, error) { return node, nil }, nil, func(n v1.ResourceName) bool { return n == plugged }).Admit(t.Context(), p, nil); r != nil {
			reason = r.Reason
		}
		if reason != want {
			t.Errorf("with a plugin of %s: %q, want %q", plugged, reason, want)
		}
	}
}
