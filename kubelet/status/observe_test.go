package status

import (
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// While a node is away its Pods are marked as not ready; once it is back it says again what it said before. An object that
// is older than what was written changes nothing.
func TestForeignReadinessIsWrittenOver(t *testing.T) {
	p := aPod()
	a := newAPI(p)
	w := start(t, a)
	ready := func(s v1.ConditionStatus, ago time.Duration) []v1.PodCondition {
		return []v1.PodCondition{{Type: v1.PodReady, Status: s, LastTransitionTime: metav1.NewTime(time.Now().Add(-ago))}}
	}
	w.Set(p, v1.PodStatus{Phase: v1.PodRunning, Conditions: ready(v1.ConditionTrue, time.Minute)}, false)
	a.wait(t)
	// The first write may not have been noted yet: an observation before that has no effect.
	for noted := false; !noted && t.Context().Err() == nil; runtime.Gosched() {
		w.mu.Lock()
		noted = w.pods[p.UID].wrote != nil
		w.mu.Unlock()
	}
	late := p.DeepCopy()
	late.Status = v1.PodStatus{Phase: v1.PodRunning, Conditions: ready(v1.ConditionFalse, time.Hour)}
	w.Observe(late)
	marked := p.DeepCopy()
	marked.Status = v1.PodStatus{Phase: v1.PodRunning, Conditions: ready(v1.ConditionFalse, time.Second)}
	w.Observe(marked)
	a.wait(t)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.patches) != 2 || !strings.Contains(a.patches[1], `"status":"True"`) {
		t.Errorf("the patches are %q", a.patches)
	}
}
