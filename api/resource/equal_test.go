package resource_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/peapod/peapod/api/resource"
)

// fill makes random objects, the same for a seed. Values are few, so that two objects have a good chance to be nearly the same.
func fill(seed int64, into any) {
	randfill.NewWithSeed(seed).NilChance(.5).NumElements(0, 2).MaxDepth(12).Funcs(
		func(s *string, c randfill.Continue) { *s = []string{"", "a"}[c.Intn(2)] },
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = apiresource.MustParse([]string{"0", "1", "1000m"}[c.Intn(3)])
		},
		func(p *intstr.IntOrString, c randfill.Continue) { *p = intstr.FromInt32(c.Int31n(2)) },
		func(at *metav1.Time, c randfill.Continue) { at.Time = time.Unix(c.Int63n(2), 0) },
		func(m *metav1.FieldsV1, _ randfill.Continue) {},
	).Fill(into)
}

// Equal and Semantic.DeepEqual agree on a spec and one that differs from it in a few random places, or in none.
func TestEqualIsSemanticDeepEqual(t *testing.T) {
	same := 0
	for seed := range int64(2000) {
		var a, other corev1.PodSpec
		fill(seed, &a)
		fill(seed+1, &other)
		b := *a.DeepCopy()
		for i, change := range []func(){
			func() { b.Volumes = other.Volumes },
			func() { b.Tolerations = other.Tolerations },
			func() { b.NodeSelector = other.NodeSelector },
			func() { b.Overhead = other.Overhead },
			func() { b.Affinity = other.Affinity },
			func() { b.HostPID = other.HostPID },
			func() {
				if len(b.Containers) > 0 && len(other.Containers) > 0 {
					b.Containers[0].Resources = other.Containers[0].Resources
				}
			},
		} {
			if seed>>i&1 == 1 {
				change()
			}
		}
		want := apiequality.Semantic.DeepEqual(a, b)
		if got := resource.Equal(&a, &b); got != want {
			t.Fatalf("seed %d: %v, but Semantic.DeepEqual says %v", seed, got, want)
		}
		if want {
			same++
		}
	}
	if same < 100 || same > 1900 {
		t.Errorf("%d of 2000 pairs were the same: that tries little", same)
	}
}

func TestEqual(t *testing.T) {
	quantity := func(s string) corev1.ResourceList { return corev1.ResourceList{"cpu": apiresource.MustParse(s)} }
	for name, c := range map[string]struct {
		a, b any
		want bool
	}{
		"nothing":                    {&corev1.PodSpec{}, &corev1.PodSpec{}, true},
		"nil and empty list":         {&corev1.PodSpec{}, &corev1.PodSpec{Volumes: []corev1.Volume{}}, true},
		"nil and empty map":          {&corev1.PodSpec{}, &corev1.PodSpec{NodeSelector: map[string]string{}}, true},
		"one amount in two ways":     {&corev1.PodSpec{Overhead: quantity("1")}, &corev1.PodSpec{Overhead: quantity("1000m")}, true},
		"two amounts":                {&corev1.PodSpec{Overhead: quantity("1")}, &corev1.PodSpec{Overhead: quantity("2")}, false},
		"nil and empty struct":       {&corev1.PodSpec{}, &corev1.PodSpec{Affinity: &corev1.Affinity{}}, false},
		"other order":                {&corev1.PodSpec{Volumes: []corev1.Volume{{Name: "a"}, {Name: "b"}}}, &corev1.PodSpec{Volumes: []corev1.Volume{{Name: "b"}, {Name: "a"}}}, false},
		"same length, other content": {&corev1.PodSpec{NodeName: "a"}, &corev1.PodSpec{NodeName: "b"}, false},
		"other types":                {&corev1.PodSpec{}, &rbacv1.RoleRef{}, false},
		"no encoding, same":          {&map[string]int{"a": 1}, &map[string]int{"a": 1}, true},
		"no encoding, other":         {&map[string]int{"a": 1}, &map[string]int{"a": 2}, false},
	} {
		if got := resource.Equal(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func BenchmarkEqual(b *testing.B) {
	var spec corev1.PodSpec
	for seed := int64(0); len(spec.Containers) == 0 || len(spec.Volumes) == 0; seed++ {
		spec = corev1.PodSpec{}
		fill(seed, &spec)
	}
	same := spec.DeepCopy()
	for name, equal := range map[string]func(a, b any) bool{"equal": resource.Equal, "semantic": apiequality.Semantic.DeepEqual} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !equal(&spec, same) {
					b.Fatal("not the same")
				}
			}
		})
	}
}
