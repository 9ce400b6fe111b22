package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDeadline(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	added := metav1.NewTime(now.Add(-10 * time.Second))
	unreachable := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	other := corev1.Taint{Key: "other", Value: "x", Effect: corev1.TaintEffectNoExecute}
	tolerates := func(key string, seconds ...int64) corev1.Toleration {
		x := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if len(seconds) > 0 {
			x.TolerationSeconds = &seconds[0]
		}
		return x
	}
	for name, c := range map[string]struct {
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		after       time.Duration // since the taint was added
		evict       bool
	}{
		"no taint":          {nil, nil, 0, false},
		"not tolerated":     {[]corev1.Taint{unreachable}, nil, 10 * time.Second, true},
		"for ever":          {[]corev1.Taint{unreachable}, []corev1.Toleration{tolerates("")}, 0, false},
		"for a while":       {[]corev1.Taint{unreachable}, []corev1.Toleration{tolerates(corev1.TaintNodeUnreachable, 300)}, 300 * time.Second, true},
		"the shortest":      {[]corev1.Taint{unreachable}, []corev1.Toleration{tolerates(corev1.TaintNodeUnreachable, 300), tolerates("", 30)}, 30 * time.Second, true},
		"one of two":        {[]corev1.Taint{unreachable, other}, []corev1.Toleration{tolerates(corev1.TaintNodeUnreachable, 300)}, 10 * time.Second, true},
		"less than no time": {[]corev1.Taint{unreachable}, []corev1.Toleration{tolerates("", -5)}, 0, true},
	} {
		at, evict := deadline(c.taints, c.tolerations, now)
		if evict != c.evict || evict && !at.Equal(added.Add(c.after)) {
			t.Errorf("%s: %v at %s, want %v %s after the taint", name, evict, at, c.evict, c.after)
		}
	}
}
