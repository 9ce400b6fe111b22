package runtimeclass

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

func TestMerge(t *testing.T) {
	const exists, equal, no, noExecute = corev1.TolerationOpExists, corev1.TolerationOpEqual, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute
	a := corev1.Toleration{Key: "a", Operator: equal, Value: "1", Effect: no}
	anyA := corev1.Toleration{Key: "a", Operator: exists}
	b := corev1.Toleration{Key: "b", Operator: exists, Effect: no}
	everything := corev1.Toleration{Operator: exists}
	short := corev1.Toleration{Key: "a", Operator: exists, Effect: noExecute, TolerationSeconds: ptr.To[int64](5)}
	long := corev1.Toleration{Key: "a", Operator: exists, Effect: noExecute, TolerationSeconds: ptr.To[int64](50)}
	type list = []corev1.Toleration
	for _, c := range []struct {
		name                string
		first, second, want list
	}{
		{"nothing", nil, nil, nil},
		{"different", list{a}, list{b}, list{a, b}},
		{"the same twice", list{a, b}, list{a}, list{a, b}},
		{"a narrower one before", list{a, b}, list{anyA}, list{b, anyA}},
		{"a narrower one after", list{anyA}, list{a}, list{anyA}},
		{"one for everything", list{a, b, short}, list{everything}, list{everything}},
		{"a shorter time", list{short}, list{long}, list{long}},
		{"for ever", list{short}, list{{Key: "a", Operator: exists, Effect: noExecute}}, list{{Key: "a", Operator: exists, Effect: noExecute}}},
		{"another value", list{a}, list{{Key: "a", Operator: equal, Value: "2", Effect: no}}, list{a, {Key: "a", Operator: equal, Value: "2", Effect: no}}},
		{"no operator is Equal", list{{Key: "a", Value: "1", Effect: no}}, list{{Key: "a", Operator: equal, Value: "1"}}, list{{Key: "a", Operator: equal, Value: "1"}}},
	} {
		if got := merge(c.first, c.second); !equality.Semantic.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}
