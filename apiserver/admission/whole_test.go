package admission_test

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestAccess runs its parts one after the other on one server: each uses objects of its own.
func TestAccess(t *testing.T) {
	c := start(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"anonymous", anonymous}, {"default roles", defaultRoles}, {"roles", roles}, {"escalation", escalation},
		{"tokens", tokens}, {"token requests", tokenRequests}, {"token review", tokenReview}, {"node reads", nodeReads}, {"node slices", nodeSlices},
		{"node writes", nodeWrites}, {"node tokens", nodeTokens}, {"mirror pods", mirrorPods},
		{"service accounts", serviceAccounts}, {"priority", priorities}, {"pod security", podSecurity}, {"reviews", reviews},
		{"runtime classes", runtimeClasses}, {"default ingress class", defaultIngressClass}, {"topology labels", topologyLabels},
		{"trust bundles", trustBundles}, {"pod certificates", podCertificates},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
}

var ctx = context.Background()

// refused fails the test unless err is forbidden, for a reason that contains text.
func refused(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("allowed; want it forbidden because: %s", text)
	case !apierrors.IsForbidden(err):
		t.Errorf("got %v; want it forbidden because: %s", err, text)
	case !strings.Contains(err.Error(), text):
		t.Errorf("forbidden because\n\t%v\nwant\n\t%s", err, text)
	}
}

func fine(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// settle calls f until it succeeds: roles and bindings count from when an informer has seen them.
func settle(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ptr[T any](v T) *T { return &v }
