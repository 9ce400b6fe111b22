// Package e2e tests the real binary the way that its users meet it: a server, kubectl, containers. Most tests share one
// cluster and have a namespace each; what a test does to a whole server it does to one of its own.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// world is what the tests of this package share.
type world struct {
	cluster  *cluster.Cluster
	client   kubernetes.Interface
	archives *cluster.Archives
	// registry serves docker.io's images to the cluster, and its own at its own address.
	registry *cluster.Registry
}

// shared is set by TestMain, before any test, and not changed after.
var shared world

func TestMain(m *testing.M) {
	flag.Parse()
	code := 1
	err := shared.start(context.Background())
	started := err == nil
	if started {
		code = m.Run()
	}
	if err := errors.Join(err, shared.stop(started)); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func (w *world) start(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("these tests run containers: run them as root")
	}
	if err := cluster.RemoveAbandoned(ctx); err != nil {
		return err
	}
	var err error
	if w.archives, err = cluster.MakeArchives(ctx); err != nil {
		return err
	}
	if w.registry, err = cluster.StartRegistry("", ""); err != nil {
		return err
	}
	for _, name := range w.archives.Names() {
		repository := name
		if !strings.Contains(name, "/") {
			repository = "library/" + name // as docker.io has it
		}
		if err := w.registry.Push(ctx, w.archives.File(name), repository); err != nil {
			return err
		}
	}
	if w.cluster, err = cluster.Start(ctx, cluster.Config{Prepare: w.registry.Mirror}); err != nil {
		return err
	}
	w.client, err = w.cluster.Client()
	return err
}

// stop removes everything, and fails if the cluster left anything on this machine. A test that failed has told
// the cluster's log itself; a start that failed has not.
func (w *world) stop(started bool) error {
	var errs []error
	if w.cluster != nil {
		tell := func() error { return w.cluster.Log.Tell(os.Stderr, "the shared cluster") }
		if !started {
			errs = append(errs, tell())
		}
		if err := w.cluster.Uninstall(); err != nil {
			errs = append(errs, tell(), err)
		}
	}
	if w.registry != nil {
		errs = append(errs, w.registry.Close())
	}
	return errors.Join(errs...)
}
