package limitranger

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func plugin(t *testing.T, items ...corev1.LimitRangeItem) *Plugin {
	t.Helper()
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	r := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns"}, Spec: corev1.LimitRangeSpec{Limits: items}}
	if err := indexer.Add(r); err != nil {
		t.Fatal(err)
	}
	return New(corelisters.NewLimitRangeLister(indexer))
}

// admit runs a Pod with one container through the plugin.
func admit(t *testing.T, p *Plugin, requests, limits corev1.ResourceList) (*corev1.Pod, error) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
	a := admission.NewAttributesRecord(pod, nil, corev1.SchemeGroupVersion.WithKind("Pod"), "ns", "p",
		corev1.SchemeGroupVersion.WithResource("pods"), "", admission.Create, nil, false, nil)
	if err := p.Admit(t.Context(), a, nil); err != nil {
		return pod, err
	}
	return pod, p.Validate(t.Context(), a, nil)
}

func TestFillsInDefaults(t *testing.T) {
	p := plugin(t, corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("cpu", "2", "memory", "1Gi"), DefaultRequest: list("cpu", "1")})
	pod, err := admit(t, p, list("memory", "512Mi"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := pod.Spec.Containers[0].Resources
	if r.Requests.Cpu().String() != "1" || r.Requests.Memory().String() != "512Mi" || r.Limits.Cpu().String() != "2" || r.Limits.Memory().String() != "1Gi" {
		t.Errorf("resources %v", r)
	}
	if got := pod.Annotations[annotation]; got != "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c" {
		t.Errorf("annotation %q", got)
	}
}

func TestRefusesWhatIsOutOfRange(t *testing.T) {
	container := func(min, max, ratio corev1.ResourceList) corev1.LimitRangeItem {
		return corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Min: min, Max: max, MaxLimitRequestRatio: ratio}
	}
	for _, c := range []struct {
		item             corev1.LimitRangeItem
		requests, limits corev1.ResourceList
		want             string
	}{
		{container(list("cpu", "100m"), nil, nil), list("cpu", "50m"), nil, "minimum cpu usage per Container is 100m, but request is 50m"},
		{container(list("cpu", "100m"), nil, nil), nil, nil, "minimum cpu usage per Container is 100m.  No request is specified"},
		{container(nil, list("memory", "1Gi"), nil), nil, list("memory", "2Gi"), "maximum memory usage per Container is 1Gi, but limit is 2Gi"},
		{container(nil, list("memory", "1Gi"), nil), nil, nil, "maximum memory usage per Container is 1Gi.  No limit is specified"},
		{container(nil, nil, list("cpu", "2")), list("cpu", "1"), list("cpu", "4"), "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000"},
		{container(list("cpu", "100m"), list("cpu", "1"), nil), list("cpu", "500m"), list("cpu", "1"), ""},
		{corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: list("cpu", "1")}, list("cpu", "2"), list("cpu", "2"), "maximum cpu usage per Pod is 1, but limit is 2"},
	} {
		_, err := admit(t, plugin(t, c.item), c.requests, c.limits)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("refused: %v", err)
		case c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), `pods "p" is forbidden: `+c.want)):
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
