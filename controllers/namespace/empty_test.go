package namespace

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// TestDiscoveryCondition: a namespace tells which group versions nobody tells the kinds of.
func TestDiscoveryCondition(t *testing.T) {
	failed := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{
		{Group: "wardle.example.com", Version: "v1alpha1"}: errors.New("stale GroupVersion discovery: wardle.example.com/v1alpha1")}}
	got := findings{discovery: fmt.Errorf("discover kinds: %w", failed)}.conditions(nil, time.Now())[0]
	const want = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: " +
		"wardle.example.com/v1alpha1: stale GroupVersion discovery: wardle.example.com/v1alpha1"
	if got.Type != corev1.NamespaceDeletionDiscoveryFailure || got.Status != corev1.ConditionTrue || got.Reason != "DiscoveryFailed" || got.Message != want {
		t.Errorf("condition is %+v", got)
	}
	got = findings{}.conditions([]corev1.NamespaceCondition{got}, time.Now())[0]
	if got.Status != corev1.ConditionFalse || got.Reason != "ResourcesDiscovered" {
		t.Errorf("condition is %+v", got)
	}
}
