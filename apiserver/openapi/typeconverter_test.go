package openapi

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// samples has an object of each kind that is tried.
func samples() []runtime.Object {
	return []runtime.Object{
		&corev1.Pod{}, &corev1.Node{}, &corev1.Service{}, &corev1.ServiceAccount{}, &corev1.ConfigMap{}, &corev1.Secret{}, &corev1.Event{},
		&corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{}, &corev1.Endpoints{}, &corev1.Namespace{}, &corev1.ResourceQuota{},
		&corev1.LimitRange{}, &appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &appsv1.ControllerRevision{},
		&batchv1.Job{}, &batchv1.CronJob{}, &discoveryv1.EndpointSlice{}, &networkingv1.Ingress{}, &networkingv1.NetworkPolicy{},
		&rbacv1.ClusterRole{}, &storagev1.CSINode{}, &storagev1.StorageClass{}, &resourcev1.ResourceClaim{},
		&admissionregistrationv1.ValidatingWebhookConfiguration{},
	}
}

func sampleScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, discoveryv1.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, storagev1.AddToScheme, resourcev1.AddToScheme, admissionregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s, nil
}

// filler makes random objects, the same for a seed. Names are few, so that lists have entries with the same key and objects
// have fields in common.
func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 3).MaxDepth(14).Funcs(
		func(s *string, c randfill.Continue) { *s = []string{"", "a", "b", "TCP"}[c.Intn(4)] },
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = *apiresource.NewMilliQuantity(c.Int63n(5), apiresource.DecimalSI)
		},
		func(p *intstr.IntOrString, c randfill.Continue) {
			if *p = intstr.FromInt32(c.Int31n(3)); c.Bool() {
				*p = intstr.FromString("http")
			}
		},
		func(m *metav1.ObjectMeta, c randfill.Continue) {
			c.FillNoCustom(m)
			m.ManagedFields = nil
		},
		func(r *runtime.RawExtension, c randfill.Continue) {
			r.Raw = []byte([]string{`{"a":1}`, `[1]`, `"text"`, `{}`}[c.Intn(4)])
		},
	)
}

// TestConvertersAtOnce has the converters of all groups made at the same time, as a start has: the library that makes them writes to
// what they are made from.
func TestConvertersAtOnce(t *testing.T) {
	scheme, err := sampleScheme()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		d := New(Config{Title: "t", Version: "v1", Scheme: sampleScheme})
		begin := make(chan struct{})
		var all sync.WaitGroup
		for _, obj := range samples() {
			c := d.TypeConverter([]string{openapiutil.GetCanonicalTypeName(obj)})
			kinds, _, err := scheme.ObjectKinds(obj)
			if err != nil {
				t.Fatal(err)
			}
			obj.GetObjectKind().SetGroupVersionKind(kinds[0])
			all.Go(func() {
				<-begin
				if _, err := c.ObjectToTyped(obj); err != nil {
					t.Errorf("a %T: %v", obj, err)
				}
			})
		}
		close(begin)
		all.Wait()
	}
}

// manager makes the manager of fields of obj's kind with a converter.
func manager(t *testing.T, scheme *runtime.Scheme, c managedfields.TypeConverter, obj runtime.Object) *managedfields.FieldManager {
	t.Helper()
	kinds, _, err := scheme.ObjectKinds(obj)
	if err != nil {
		t.Fatal(err)
	}
	m, err := managedfields.NewDefaultFieldManager(c, scheme, scheme, scheme, kinds[0], kinds[0].GroupVersion(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fields returns what obj's managers own, but for when.
func fields(t *testing.T, obj runtime.Object) []metav1.ManagedFieldsEntry {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	all := m.GetManagedFields()
	for i := range all {
		all[i].Time = nil
	}
	return all
}

// Three managers write an object in turns. What each owns afterwards is what it would with the library's own converter, and
// what is an error is one.
func TestManagedFieldsAsWithTheLibrary(t *testing.T) {
	scheme, err := sampleScheme()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, sample := range samples() {
		names = append(names, openapiutil.GetCanonicalTypeName(sample))
	}
	c := New(Config{Title: "t", Version: "v1", Scheme: sampleScheme}).TypeConverter(names)
	checking, err := c.(*converter).checking()
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range samples() {
		t.Run(fmt.Sprintf("%T", sample), func(t *testing.T) {
			t.Parallel()
			ours, library := manager(t, scheme, c, sample), manager(t, scheme, checking, sample)
			fresh := func() runtime.Object { return reflect.New(reflect.TypeOf(sample).Elem()).Interface().(runtime.Object) }
			tracked := 0
			for seed := range int64(25) {
				fill := filler(seed)
				live, liveLibrary := fresh(), fresh()
				for write := range 3 {
					next := fresh()
					fill.Fill(next)
					m, _ := meta.Accessor(next)
					m.SetManagedFields(fields(t, live))
					who := fmt.Sprint("m", write)
					got, err := ours.Update(live, next.DeepCopyObject(), who)
					want, errLibrary := library.Update(liveLibrary, next.DeepCopyObject(), who)
					if (err == nil) != (errLibrary == nil) { // The same is found at another step, in other words, which are logged only.
						t.Fatalf("seed %d, write %d: got error %v, the library's %v", seed, write, err, errLibrary)
					}
					if err != nil {
						break
					}
					if diff := cmp.Diff(fields(t, want), fields(t, got)); diff != "" {
						t.Fatalf("seed %d, write %d: managed fields (-library +ours):\n%s", seed, write, diff)
					}
					tracked += len(fields(t, got))
					live, liveLibrary = got, want
				}
			}
			if tracked < 25 {
				t.Errorf("only %d entries were compared", tracked)
			}
		})
	}
}

// What the schema of a type cannot promise is checked, and so is all that was not asked to be lenient.
func TestConverterChecksWhatItMust(t *testing.T) {
	d := New(Config{Title: "t", Version: "v1", Scheme: sampleScheme})
	c := d.TypeConverter([]string{openapiutil.GetCanonicalTypeName(&corev1.Pod{}), openapiutil.GetCanonicalTypeName(&appsv1.ControllerRevision{})})
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	pod.Spec.Containers = []corev1.Container{{Name: "twice"}, {Name: "twice"}}
	wrong := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": "text"}}
	for range 2 { // The second time types are known.
		if _, err := c.ObjectToTyped(pod, typed.AllowDuplicates); err != nil {
			t.Errorf("entries with the same key, which were allowed: %v", err)
		}
		if _, err := c.ObjectToTyped(pod); err == nil {
			t.Error("no error for entries with the same key")
		}
		if _, err := c.ObjectToTyped(wrong, typed.AllowDuplicates); err == nil {
			t.Error("no error for an unstructured object that is not as its schema")
		}
		if _, err := c.ObjectToTyped(&corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}}, typed.AllowDuplicates); err == nil {
			t.Error("no error for a kind without a schema")
		}
		other := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v2", Kind: "Pod"}}
		if _, err := c.ObjectToTyped(other, typed.AllowDuplicates); err == nil {
			t.Error("no error for a version without a schema")
		}
	}
	for obj, want := range map[runtime.Object]bool{
		&corev1.Pod{}: true, &corev1.Service{}: true, &batchv1.CronJob{}: true,
		&appsv1.ControllerRevision{}: false, wrong: false,
	} {
		if got := conforms(reflect.TypeOf(obj), nil); got != want {
			t.Errorf("%T: conforms %v, want %v", obj, got, want)
		}
	}
}

// The fields of a Binding and of an Eviction are nobody's: they are not stored, and their author gets a Status. Those of what is stored are.
func TestFieldsThatNobodyKeeps(t *testing.T) {
	scheme, err := sampleScheme()
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Title: "t", Version: "v1", Scheme: sampleScheme}).TypeConverter([]string{openapiutil.GetCanonicalTypeName(&corev1.Pod{})})
	meta := metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}}
	for _, test := range []struct {
		old, obj runtime.Object
		kept     bool
	}{
		{&corev1.Binding{}, &corev1.Binding{ObjectMeta: meta, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, false},
		{&policyv1.Eviction{}, &policyv1.Eviction{ObjectMeta: meta}, false},
		{&corev1.Pod{}, &corev1.Pod{ObjectMeta: meta}, true},
	} {
		obj, err := manager(t, scheme, c, test.obj).Update(test.old, test.obj, "me")
		if err != nil {
			t.Fatalf("%T: %v", test.obj, err)
		}
		if got := fields(t, obj); (len(got) != 0) != test.kept {
			t.Errorf("of %T somebody keeps %v", test.obj, got)
		}
	}
}
