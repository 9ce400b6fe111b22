package pod

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/kubelet/critest"
)

// TestNobodyStartsAtTheEnd: when it is waited for the workers that run, no other one joins them, whoever still tells of Pods.
func TestNobodyStartsAtTheEnd(t *testing.T) {
	m, err := NewManager(Config{Runtime: critest.New(), RuntimeName: "test", RootDir: t.TempDir(), LogDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- m.Run(ctx, nil, func(ctx context.Context) ([]*v1.Pod, bool) {
			<-ctx.Done()
			return nil, false
		})
	}()
	<-m.StaticKnown() // static Pods may start by now
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", Annotations: map[string]string{"kubernetes.io/config.source": "file"}}}
	m.Declare(p)
	if w := m.worker("u"); w == nil || w.running {
		t.Errorf("the worker of a Pod that comes too late runs: %+v", w)
	}
}
