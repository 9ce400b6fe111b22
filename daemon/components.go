package daemon

import (
	"context"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/controllers"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/scheduler"
	"github.com/peapod/peapod/scheduler/metrics"
)

// resourceList is short for the API's.
type resourceList = v1.ResourceList

// schedulerMetrics are those of this process, which the API server's /metrics shows with all others.
var schedulerMetrics = sync.OnceValue(func() *metrics.Set {
	return metrics.New(metrics.Registry{MustRegister: legacyregistry.MustRegister, CustomMustRegister: legacyregistry.CustomMustRegister}, v1.DefaultSchedulerName)
})

// newScheduler returns the scheduler as a part.
func newScheduler(c *control, shared informers.SharedInformerFactory) (func(context.Context) error, error) {
	client, _, err := c.clientFor(asUser(schedulerUser))
	if err != nil {
		return nil, err
	}
	broadcaster := events.NewBroadcaster(scheduler.NewSink(client.EventsV1()))
	s, err := scheduler.New(scheduler.Config{
		Client: client, Informers: shared, Recorder: broadcaster.NewRecorder(scheme.Scheme, v1.DefaultSchedulerName), Metrics: schedulerMetrics(),
	})
	if err != nil {
		return nil, fmt.Errorf("make scheduler: %w", err)
	}
	return func(ctx context.Context) error {
		if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
			return fmt.Errorf("record events: %w", err)
		}
		defer broadcaster.Shutdown()
		return s.Run(ctx)
	}, nil
}

// newControllers returns all controllers as one part: they need nothing of each other.
func newControllers(s settled, c *control, shared informers.SharedInformerFactory) (func(context.Context) error, error) {
	type loop struct {
		run    engine.Runner
		events *eventRecorder
	}
	var loops []loop
	for _, row := range controllers.All() {
		client, config, err := c.clientFor(asController(row.Name))
		if err != nil {
			return nil, err
		}
		meta, err := inprocess.NewMetadata(config)
		if err != nil {
			return nil, fmt.Errorf("make metadata client of %s: %w", row.Name, err)
		}
		extensions, err := inprocess.NewExtensions(config)
		if err != nil {
			return nil, fmt.Errorf("make client of custom resource definitions of %s: %w", row.Name, err)
		}
		recorder := newEventRecorder(row.Source(), client.CoreV1())
		l, err := row.New(engine.Deps{
			Client: client, Metadata: meta, Extensions: extensions, Config: config, Informers: shared,
			Recorder: recorder, RootCA: c.keys.ServerCA().CurrentCABundleContent,
			ClusterCIDRs: c.ranges.Cluster, ServiceCIDRs: c.ranges.Service,
			SignClient: c.keys.ClientCA().Sign, SignServing: c.keys.ServerCA().Sign,
			SigningDuration: s.ClusterSigningDuration.Duration, NodeMonitorGracePeriod: s.NodeMonitorGracePeriod.Duration,
		})
		if err != nil {
			return nil, fmt.Errorf("make controller %s: %w", row.Name, err)
		}
		loops = append(loops, loop{l, recorder})
	}
	return func(ctx context.Context) error {
		var running sync.WaitGroup
		for _, l := range loops {
			running.Go(func() {
				defer l.events.Shutdown()
				_ = l.run.Run(ctx) // ends with ctx only
			})
		}
		running.Wait()
		return nil
	}, nil
}
