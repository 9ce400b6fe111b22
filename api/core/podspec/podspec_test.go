package podspec

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/randfill"
)

// filler makes objects with every field set to something or nothing at random, always the same ones for a seed.
func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(.4).NumElements(0, 3).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Int63n(1<<40), resource.DecimalSI)
			if c.Bool() {
				*q = resource.MustParse("123456789n")
			}
		},
		func(l *corev1.ResourceList, c randfill.Continue) {
			for _, name := range []corev1.ResourceName{"cpu", "memory", "hugepages-2Mi", "example.com/gpu"} {
				if c.Bool() {
					if *l == nil {
						*l = corev1.ResourceList{}
					}
					var q resource.Quantity
					c.Fill(&q)
					(*l)[name] = q
				}
			}
		},
		func(p *intstr.IntOrString, c randfill.Continue) { *p = intstr.FromInt32(c.Int31n(100000)) },
		func(m *metav1.FieldsV1, _ randfill.Continue) {},
	)
}

const rounds = 300

func TestDefaultingTwiceIsDefaultingOnce(t *testing.T) {
	for seed := range int64(rounds) {
		p := &corev1.Pod{}
		filler(seed).Fill(p)
		DefaultPod(p)
		once := p.DeepCopy()
		DefaultPod(p)
		if !equality.Semantic.DeepEqual(once, p) {
			t.Fatalf("seed %d (-once +twice):\n%s", seed, cmp.Diff(once, p))
		}
		// Nor does what is a Pod differ from a template by what holds for both.
		template := p.Spec.DeepCopy()
		DefaultSpec(template)
		if !equality.Semantic.DeepEqual(*template, p.Spec) {
			t.Fatalf("seed %d (-pod +template):\n%s", seed, cmp.Diff(p.Spec, *template))
		}
	}
}

// Whatever comes in, the checks answer, answer the same twice, and leave it as it was.
func TestValidationIsPure(t *testing.T) {
	for seed := range int64(rounds) {
		p, old := &corev1.Pod{}, &corev1.Pod{}
		filler(seed).Fill(p)
		filler(seed + rounds).Fill(old)
		before := p.DeepCopy()
		o := Options{Pod: seed%2 == 0, Meta: &p.ObjectMeta, Old: &old.Spec, OldMeta: &old.ObjectMeta}
		first := ValidateSpec(&p.Spec, field.NewPath("spec"), o)
		second := ValidateSpec(&p.Spec, field.NewPath("spec"), o)
		if diff := cmp.Diff(lines(first), lines(second)); diff != "" {
			t.Fatalf("seed %d: the errors differ from one time to the next:\n%s", seed, diff)
		}
		ValidateAnnotations(p.Annotations, &p.Spec, nil, o)
		Warnings(&p.ObjectMeta, &p.Spec, nil)
		if diff := cmp.Diff(before, p); diff != "" {
			t.Fatalf("seed %d: the checks have changed the object:\n%s", seed, diff)
		}
	}
}

func lines(errs field.ErrorList) []string {
	var list []string
	for _, err := range errs {
		// The order within a map of labels is apimachinery's.
		if !strings.Contains(err.Field, "atchLabels") && !strings.HasSuffix(err.Field, "nodeSelector") &&
			!strings.Contains(err.Field, "nnotations") && !strings.Contains(err.Field, ".labels") {
			list = append(list, err.Error())
		}
	}
	return list
}

// gated are the fields of features that are off, as "Type.Field".
var gated = map[string]bool{
	"EmptyDirVolumeSource.Mode": true, "VolumeMount.BindMountOptions": true, "HTTPGetAction.Protocol": true,
	"GRPCAction.Mode": true, "Lifecycle.StopSignal": true, "TypedObjectReference.Namespace": true,
	"PodSpec.SchedulingGroup": true, "PodSpec.EvictionResponders": true,
	"SecretVolumeSource.DefaultUser": true, "ConfigMapVolumeSource.DefaultUser": true, "DownwardAPIVolumeSource.DefaultUser": true,
	"ProjectedVolumeSource.DefaultUser": true, "KeyToPath.User": true, "DownwardAPIVolumeFile.User": true,
	"ServiceAccountTokenProjection.User": true, "ClusterTrustBundleProjection.User": true, "PodCertificateProjection.User": true,
}

// inUse adds to found the gated fields that are set anywhere in v.
func inUse(v reflect.Value, found map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			inUse(v.Elem(), found)
		}
	case reflect.Slice:
		for i := range v.Len() {
			inUse(v.Index(i), found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if gated[name] && !v.Field(i).IsZero() {
				found[name] = true
			}
			inUse(v.Field(i), found)
		}
	}
}

// Nothing of a feature that is off is left, nothing else is lost, and nothing is dropped that the old object uses.
func TestDropping(t *testing.T) {
	ever := map[string]bool{}
	for seed := range int64(rounds) {
		s := &corev1.PodSpec{}
		filler(seed).Fill(s)
		inUse(reflect.ValueOf(s), ever)
		kept := s.DeepCopy()
		DropDisabledFields(kept, s)
		if diff := cmp.Diff(s, kept); diff != "" {
			t.Fatalf("seed %d: dropped what the old object uses:\n%s", seed, diff)
		}
		DropDisabledFields(s, nil)
		left := map[string]bool{}
		inUse(reflect.ValueOf(s), left)
		if len(left) > 0 {
			t.Fatalf("seed %d: left %v", seed, left)
		}
	}
	if len(ever) != len(gated) {
		t.Errorf("of %d fields only %v were ever set", len(gated), ever)
	}
}

func TestTemplate(t *testing.T) {
	old := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: " "}}}}
	DefaultTemplate(old)
	path := field.NewPath("spec", "template")
	// What only Pods must be is no matter: white space, the reference of an image volume, ports that are yet to come.
	old.Spec.HostNetwork = true
	old.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
	old.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}}}
	DefaultTemplate(old)
	if errs := ValidateTemplate(old, nil, path); len(errs) > 0 {
		t.Fatal(errs)
	}
	bad := old.DeepCopy()
	bad.Labels = map[string]string{"a b": "c"}
	bad.Spec.HostNetwork = false
	bad.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "busybox"}}}
	bad.Spec.RestartPolicy = "Sometimes"
	DefaultTemplate(bad)
	var got []string
	for _, err := range ValidateTemplate(bad, old, path) {
		got = append(got, err.Field+": "+err.Type.String())
	}
	want := []string{
		"spec.template.labels: Invalid value",
		"spec.template.spec.restartPolicy: Unsupported value",
		"spec.template.spec.ephemeralContainers: Forbidden",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDroppingFromTemplates(t *testing.T) {
	make := func() *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"pod.beta.kubernetes.io/init-containers": "[]", "mine": "x"}},
			Spec: corev1.PodSpec{SchedulingGroup: &corev1.PodSchedulingGroup{},
				EvictionResponders: []corev1.EvictionResponder{{Name: "a.example/b"}}},
		}
	}
	created := make()
	DropDisabledTemplateFields(created, nil)
	if len(created.Annotations) != 1 || created.Spec.SchedulingGroup != nil || created.Spec.EvictionResponders != nil {
		t.Errorf("kept %v and %v", created.Annotations, created.Spec)
	}
	// Each feature is kept for itself.
	old, updated := make(), make()
	old.Spec.EvictionResponders = nil
	DropDisabledTemplateFields(updated, old)
	if len(updated.Annotations) != 1 || updated.Spec.SchedulingGroup == nil || updated.Spec.EvictionResponders != nil {
		t.Errorf("kept %v and %v", updated.Annotations, updated.Spec)
	}
}

func TestSplitSubscript(t *testing.T) {
	for path, want := range map[string][2]string{
		"metadata.name":                 {"metadata.name", ""},
		"metadata.labels['app']":        {"metadata.labels", "app"},
		"metadata.annotations['a/b.c']": {"metadata.annotations", "a/b.c"},
		"metadata.labels['']":           {"metadata.labels", ""},
		"['x']":                         {"['x']", ""},
		"metadata.labels[app]":          {"metadata.labels[app]", ""},
	} {
		name, key, _ := SplitSubscript(path)
		if name != want[0] || key != want[1] {
			t.Errorf("%s is %q and %q", path, name, key)
		}
	}
}

func TestNormalizeSysctl(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":     "net.ipv4.ip_forward",
		"net/ipv4/ip_forward":     "net.ipv4.ip_forward",
		"net/ipv4/conf/eth0.1/rp": "net.ipv4.conf.eth0/1.rp",
		"net.ipv4.conf.eth0/1.rp": "net.ipv4.conf.eth0/1.rp",
		"kernel":                  "kernel",
	} {
		if got := NormalizeSysctl(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
