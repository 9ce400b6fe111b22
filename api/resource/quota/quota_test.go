package quota

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = apiresource.MustParse(pairs[i+1])
	}
	return out
}

// same fails unless both lists name the same resources with the same amounts.
func same(t *testing.T, got, want corev1.ResourceList) {
	t.Helper()
	if !quota.Equals(got, want) {
		t.Errorf("costs %v\nwant  %v", got, want)
	}
}

func evaluatorOf(t *testing.T, name string) quota.Evaluator {
	t.Helper()
	for _, e := range Measured(nil, nil) {
		if e.GroupResource() == corev1.Resource(name) {
			return e
		}
	}
	t.Fatalf("no evaluator of %s", name)
	return nil
}

func usage(t *testing.T, name string, obj runtime.Object) corev1.ResourceList {
	t.Helper()
	got, err := evaluatorOf(t, name).Usage(obj)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func pod(requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
}

func TestPodCosts(t *testing.T) {
	p := pod(list("cpu", "100m", "memory", "1Gi", "hugepages-2Mi", "4Mi", "example.com/gpu", "2", "deviceclass.resource.kubernetes.io/nic", "1"),
		list("cpu", "1", "memory", "2Gi", "hugepages-2Mi", "4Mi", "example.com/gpu", "2", "deviceclass.resource.kubernetes.io/nic", "1"))
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list("cpu", "300m")}}}
	p.Spec.Overhead = list("cpu", "50m")
	all := list("count/pods", "1", "pods", "1", "cpu", "350m", "requests.cpu", "350m", "limits.cpu", "1050m",
		"memory", "1Gi", "requests.memory", "1Gi", "limits.memory", "2Gi",
		"hugepages-2Mi", "4Mi", "requests.hugepages-2Mi", "4Mi", "requests.example.com/gpu", "2",
		"requests.deviceclass.resource.kubernetes.io/nic", "1")
	if m := evaluatorOf(t, "pods").MatchingResources(quota.ResourceNames(all)); len(m) != len(all) {
		t.Errorf("of what a Pod costs a quota bounds only %v", m)
	}
	same(t, usage(t, "pods", p), all)

	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Resources: &corev1.ResourceRequirements{Requests: list("cpu", "2")}}}
	if got := usage(t, "pods", p)["requests.cpu"]; got.String() != "2050m" {
		t.Errorf("a Pod that still has what it is to give back costs %s CPU, want 2050m", got.String())
	}
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		p.Status.Phase = phase
		same(t, usage(t, "pods", p), list("count/pods", "1"))
	}
}

func TestPodThatShouldBeGoneCostsNothing(t *testing.T) {
	p := pod(nil, nil)
	now := time.Now()
	p.DeletionTimestamp = ptr.To(metav1.NewTime(now.Add(-time.Minute)))
	p.DeletionGracePeriodSeconds = ptr.To[int64](90)
	end, charged := ChargedUntil(p, now)
	if !charged || end.Sub(p.DeletionTimestamp.Time) != 90*time.Second {
		t.Errorf("within its time: charged %v until %s", charged, end)
	}
	if _, charged := ChargedUntil(p, now.Add(31*time.Second)); charged {
		t.Error("charged though its time is over")
	}
	if _, charged := ChargedUntil(pod(nil, nil), now); !charged {
		t.Error("a Pod that runs is not charged")
	}
}

func TestPodConstraints(t *testing.T) {
	e := evaluatorOf(t, "pods")
	required := []corev1.ResourceName{"pods", "limits.cpu", "requests.memory", "ephemeral-storage"}
	p := pod(list("memory", "1Gi"), nil)
	p.Spec.InitContainers = []corev1.Container{{Name: "a"}}
	err := e.Constraints(required, p)
	if want := "must specify limits.cpu for: a,c; requests.memory for: a"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("cpu", "1")}
	if err := e.Constraints(required, p); err != nil {
		t.Errorf("a Pod that says it as a whole: %v", err)
	}
	if err := e.Constraints([]corev1.ResourceName{"pods", "count/pods"}, pod(nil, nil)); err != nil {
		t.Errorf("nothing that has to be said: %v", err)
	}
}

func TestPodScopes(t *testing.T) {
	best, deadline, asking, far, gold := pod(nil, nil), pod(nil, nil), pod(list("cpu", "1"), nil), pod(nil, nil), pod(nil, nil)
	deadline.Spec.ActiveDeadlineSeconds = ptr.To[int64](0)
	far.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}}}}}
	gold.Spec.PriorityClassName = "gold"
	requirement := func(scope corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: op, Values: values}
	}
	const exists = corev1.ScopeSelectorOpExists
	for _, c := range []struct {
		r       corev1.ScopedResourceSelectorRequirement
		in, out *corev1.Pod
	}{
		{requirement(corev1.ResourceQuotaScopeTerminating, exists), deadline, best},
		{requirement(corev1.ResourceQuotaScopeNotTerminating, exists), best, deadline},
		{requirement(corev1.ResourceQuotaScopeBestEffort, exists), best, asking},
		{requirement(corev1.ResourceQuotaScopeNotBestEffort, exists), asking, best},
		{requirement(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists), far, best},
		{requirement(corev1.ResourceQuotaScopePriorityClass, exists), gold, best},
		{requirement(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpDoesNotExist), best, gold},
		{requirement(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "silver", "gold"), gold, best},
		{requirement(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpNotIn, "gold"), best, gold},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{
			MatchExpressions: []corev1.ScopedResourceSelectorRequirement{c.r}}}, Status: corev1.ResourceQuotaStatus{Hard: list("pods", "1")}}
		for p, want := range map[*corev1.Pod]bool{c.in: true, c.out: false} {
			if got, err := evaluatorOf(t, "pods").Matches(q, p); err != nil || got != want {
				t.Errorf("%s %s %v takes %+v: %v, %v; want %v", c.r.ScopeName, c.r.Operator, c.r.Values, p.Spec, got, err, want)
			}
		}
	}
	if _, err := podInScope(requirement(corev1.ResourceQuotaScopePriorityClass, "Like"), gold); err == nil || !strings.Contains(err.Error(), `"Like"`) {
		t.Errorf("an operator that does not exist: %v", err)
	}
}

func TestServiceCosts(t *testing.T) {
	for _, c := range []struct {
		kind             corev1.ServiceType
		own              *bool
		ports, balancers string
	}{
		{corev1.ServiceTypeClusterIP, nil, "0", "0"},
		{corev1.ServiceTypeNodePort, nil, "2", "0"},
		{corev1.ServiceTypeLoadBalancer, nil, "2", "1"},
		{corev1.ServiceTypeLoadBalancer, ptr.To(false), "1", "1"},
	} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: c.kind, AllocateLoadBalancerNodePorts: c.own,
			Ports: []corev1.ServicePort{{Port: 1}, {Port: 2, NodePort: 30000}}}}
		same(t, usage(t, "services", svc), list("count/services", "1", "services", "1",
			"services.nodeports", c.ports, "services.loadbalancers", c.balancers))
	}
}

func TestClaimCosts(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast"),
		Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1500m")}}}
	counts := []string{"count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1"}
	with := func(storage string) corev1.ResourceList {
		return list(append(counts, "requests.storage", storage, "fast.storageclass.storage.k8s.io/requests.storage", storage)...)
	}
	same(t, usage(t, "persistentvolumeclaims", claim), with("2"))
	claim.Status.AllocatedResources = list("storage", "5Gi")
	same(t, usage(t, "persistentvolumeclaims", claim), with("5Gi"))
	e := evaluatorOf(t, "persistentvolumeclaims")
	names := []corev1.ResourceName{"requests.storage", "slow.storageclass.storage.k8s.io/requests.storage", "pods", "requests.cpu"}
	if got := e.MatchingResources(names); len(got) != 2 {
		t.Errorf("claims are bounded by %v", got)
	}
}

func TestCountedKinds(t *testing.T) {
	jobs := Counted(schema.GroupResource{Group: "batch", Resource: "jobs"}, nil)
	got, err := jobs.Usage(&corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, list("count/jobs.batch", "1"))
	same(t, usage(t, "secrets", &corev1.Secret{}), list("count/secrets", "1", "secrets", "1"))
}

func TestAffected(t *testing.T) {
	q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: list("pods", "1"), Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}}}
	e := evaluatorOf(t, "pods")
	short, long, over := pod(nil, nil), pod(nil, nil), pod(nil, nil)
	short.Spec.ActiveDeadlineSeconds, over.Spec.ActiveDeadlineSeconds = ptr.To[int64](1), ptr.To[int64](1)
	over.Status.Phase = corev1.PodFailed
	for _, c := range []struct {
		name     string
		old, now *corev1.Pod
		want     bool
	}{{"nothing", short, short, false}, {"gets a deadline", long, short, true}, {"ends", short, over, true}, {"is out of scope", long, long, false}} {
		if got, err := Affected(q, e, c.old, c.now); err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}
