package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/storage"
	"sigs.k8s.io/randfill"

	"github.com/peapod/peapod/store/mvcc"
)

// randomPod makes a random Pod, the same for a seed.
func randomPod(seed int64) *corev1.Pod {
	p := &corev1.Pod{}
	randfill.NewWithSeed(seed).NilChance(.6).NumElements(0, 2).MaxDepth(12).Funcs(
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = *apiresource.NewMilliQuantity(c.Int63n(9999), apiresource.DecimalSI)
		},
		func(p *intstr.IntOrString, c randfill.Continue) { *p = intstr.FromInt32(c.Int31n(9999)) },
		func(at *metav1.Time, c randfill.Continue) { at.Time = time.Unix(c.Int63n(1<<32), 0) },
	).Fill(p)
	p.Name, p.Namespace, p.ResourceVersion, p.SelfLink = fmt.Sprint("pod-", seed), "default", "", ""
	if seed%2 == 0 {
		p.Spec.SchedulerName = ""
	}
	p.Labels = map[string]string{"third": fmt.Sprint(seed % 3)}
	return p
}

// fillsIn is a codec that fills in a default when it decodes, for some Pods.
type fillsIn struct{ runtime.Codec }

func (c fillsIn) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := c.Codec.Decode(data, gvk, into)
	if p, ok := obj.(*corev1.Pod); ok && p.Labels["third"] == "0" && p.Spec.SchedulerName == "" {
		p.Spec.SchedulerName = "filled in"
	}
	return obj, kind, err
}

// sameList compares an encoded list with what GetList's is encoded to.
func sameList(t *testing.T, r *Resource, opts storage.ListOptions) *corev1.PodList {
	t.Helper()
	opts.Recursive = true
	list := &corev1.PodList{}
	if err := r.GetList(t.Context(), "/pods", opts, list); err != nil {
		t.Fatal(err)
	}
	want, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.GetEncodedList(t.Context(), "/pods", opts)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		var decoded corev1.PodList
		err := decoded.Unmarshal(got)
		t.Fatalf("the encoded list (%d bytes, %d items, %v) is not the list encoded (%d bytes, %d items)", len(got), len(decoded.Items), err, len(want), len(list.Items))
	}
	return list
}

// notes counts what is noted of the objects in the store.
func notes(r *Resource) (known, otherwise int) {
	r.store.present().Ascend(r.Prefix, r.Prefix, func(v *mvcc.Value) bool {
		if m := v.Memo(); m != nil {
			switch m.Note.Load() {
			case noteAsStored:
				known++
			case noteOtherwise:
				otherwise++
			}
		}
		return true
	})
	return known, otherwise
}

func selecting(selector string) storage.SelectionPredicate {
	l, err := labels.Parse(selector)
	if err != nil {
		panic(err)
	}
	return storage.SelectionPredicate{Label: l, Field: fields.Everything(), GetAttrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
		return obj.(*corev1.Pod).Labels, nil, nil
	}}
}

// Random Pods are listed in all ways, before and after changes. The encoded list is always what the list encodes to.
func TestEncodedListIsTheListEncoded(t *testing.T) {
	for _, watched := range []bool{true, false} {
		for _, filling := range []bool{true, false} {
			t.Run(fmt.Sprintf("watched=%v,filling=%v", watched, filling), func(t *testing.T) {
				r, _ := newCoreStorage(t)
				if filling {
					r.coder.codec = fillsIn{r.coder.codec}
				}
				if watched {
					startWatch(t, r, "0", nil)
				}
				sameList(t, r, storage.ListOptions{Predicate: storage.Everything})
				const pods = 60
				for seed := range int64(pods) {
					p := randomPod(seed)
					if err := r.Create(t.Context(), podKeyOf(p.Name), p, nil, 0); err != nil {
						t.Fatal(err)
					}
				}
				random := rand.New(rand.NewPCG(1, 2))
				for range 6 {
					lists(t, r)
					for range 10 {
						change(t, r, randomPod(random.Int64N(pods)).Name, random.Uint64())
					}
				}
				lists(t, r)
				known, otherwise := notes(r)
				switch {
				case !watched && known+otherwise > 0:
					t.Errorf("%d objects are noted that nobody watches", known+otherwise)
				case watched && known < pods/2, watched && filling != (otherwise > 0):
					t.Errorf("%d objects are known to be encoded as they are stored, %d not to be, filling in defaults: %v", known, otherwise, filling)
				}
			})
		}
	}
}

// lists compares lists of all sorts, each twice: the second time what is encoded may be known.
func lists(t *testing.T, r *Resource) {
	t.Helper()
	for range 2 {
		all := sameList(t, r, storage.ListOptions{Predicate: storage.Everything})
		sameList(t, r, storage.ListOptions{Predicate: storage.Everything, ResourceVersion: "0"})
		sameList(t, r, storage.ListOptions{Predicate: storage.Everything, ResourceVersion: all.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if n := len(sameList(t, r, storage.ListOptions{Predicate: selecting("third=1")}).Items); n == 0 || n == len(all.Items) {
			t.Errorf("%d of %d objects were selected", n, len(all.Items))
		}
		page := storage.Everything
		page.Limit = 7
		seen := 0
		for {
			l := sameList(t, r, storage.ListOptions{Predicate: page})
			seen += len(l.Items)
			if page.Continue = l.Continue; page.Continue == "" {
				break
			}
		}
		if seen != len(all.Items) {
			t.Errorf("%d objects on pages, %d in all", seen, len(all.Items))
		}
	}
}

// change annotates the Pod of that name, so much that its size takes more bytes now and then.
func change(t *testing.T, r *Resource, name string, by uint64) {
	t.Helper()
	err := r.GuaranteedUpdate(t.Context(), podKeyOf(name), &corev1.Pod{}, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			p := obj.(*corev1.Pod)
			p.Annotations = maps.Clone(p.Annotations)
			if p.Annotations == nil {
				p.Annotations = map[string]string{}
			}
			p.Annotations[fmt.Sprint(by%3)] = string(slices.Repeat([]byte("x"), int(by%300)))
			return p, nil
		}), nil)
	if err != nil {
		t.Fatal(err)
	}
}

func podKeyOf(name string) string { return "/pods/default/" + name }

// What is stored in another form is not listed as it is stored, and a list too large is left to GetList.
func TestNotEncoded(t *testing.T) {
	everything := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	_, s := newSuite(t)
	if _, err := s.Resource.GetEncodedList(t.Context(), "/pods", everything); !errors.Is(err, errNotEncoded) {
		t.Errorf("objects stored as JSON: %v", err)
	}
	r, _ := newCoreStorage(t)
	p := corePod("large")
	p.Annotations["large"] = string(slices.Repeat([]byte("x"), 1<<20))
	for i := range maxEncoded >> 20 {
		p.Name = fmt.Sprint("large-", i)
		if err := r.Create(t.Context(), podKeyOf(p.Name), p, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.GetEncodedList(t.Context(), "/pods", everything); !errors.Is(err, errNotEncoded) {
		t.Errorf("a large list: %v", err)
	}
	everything.Predicate.Limit = 3
	sameList(t, r, everything)
}

// Damaged bytes are never taken for a stored object in a way that reads beyond them.
func TestCutStoredOfDamagedBytes(t *testing.T) {
	r, _ := newCoreStorage(t)
	if err := r.Create(t.Context(), podKeyOf("p"), corePod("p"), nil, 0); err != nil {
		t.Fatal(err)
	}
	var whole []byte
	r.store.present().Ascend(r.Prefix, r.Prefix, func(v *mvcc.Value) bool { whole = v.Data; return true })
	s, ok := cutStored(whole)
	if !ok || len(s.before)+len(s.after)+len(s.rest) == 0 {
		t.Fatal("a stored Pod was not recognised")
	}
	for n := range whole {
		if s, ok := cutStored(whole[:n]); ok {
			t.Fatalf("the first %d bytes of %d were taken for a whole object: %v", n, len(whole), s)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		damaged := bytes.Clone(whole)
		for range 1 + random.IntN(3) {
			damaged[random.IntN(min(len(damaged), 120))] = byte(random.Uint32())
		}
		if s, ok := cutStored(damaged); ok && len(s.before)+len(s.after)+len(s.rest) > len(damaged) {
			t.Fatalf("%x became more than it was", damaged)
		}
	}
}
