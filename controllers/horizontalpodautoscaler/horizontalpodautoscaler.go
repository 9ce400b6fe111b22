// Package horizontalpodautoscaler changes how many replicas there are of what has a scale subresource, so that what its Pods use, or
// other metrics, come near their targets.
//
// Metrics announce no changes: each autoscaler is looked at when it is made or its spec changes, and every 15 seconds. A cluster
// without autoscalers has none of that. What a look needs beyond the API is its history (see there), which is in memory.
package horizontalpodautoscaler

import (
	"context"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/scale"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "horizontal-pod-autoscaler"

// Upstream's defaults.
const (
	// period is how long after a look the next one is.
	period = 15 * time.Second
	// downscaleStabilization is for how long a recommendation keeps lower ones from being followed.
	downscaleStabilization = 5 * time.Minute
	// cpuInitializationPeriod is for how long a Pod starts, at most; one that is not ready within initialReadinessDelay was never.
	cpuInitializationPeriod = 5 * time.Minute
	initialReadinessDelay   = 30 * time.Second
	tolerance               = 0.1
	// conflictPause is how long an informer may take to tell of a write.
	conflictPause = time.Second
	workers       = 5
)

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	scalers  autoscalinglisters.HorizontalPodAutoscalerLister
	pods     corelisters.PodLister
	scales   *scale.Client
	meter    *meter
	clock    clock.PassiveClock
	loop     *engine.Loop

	// mu guards the map and the selectors in it; the rest of a history is its autoscaler's worker's.
	mu        sync.Mutex
	histories map[cache.ObjectName]*history
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	c, err := newController(d)
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func newController(d engine.Deps) (*controller, error) {
	scalers, pods := d.Informers.Autoscaling().V2().HorizontalPodAutoscalers(), d.Informers.Core().V1().Pods()
	scales := scale.New(d.Client)
	c := &controller{
		client: d.Client, recorder: d.Recorder, scalers: scalers.Lister(), pods: pods.Lister(), scales: scales,
		meter: &meter{config: d.Config, mapper: scales.Mapper}, clock: clock.RealClock{},
		loop: &engine.Loop{Name: Name, Workers: workers}, histories: map[cache.ObjectName]*history{},
	}
	c.loop.Sync = c.sync
	wake := engine.Object(c.loop)
	seen, err := scalers.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, DeleteFunc: wake,
		UpdateFunc: func(old, now any) {
			a, wasOne := old.(*autoscalingv2.HorizontalPodAutoscaler)
			b, isOne := now.(*autoscalingv2.HorizontalPodAutoscaler)
			// Its status is the controller's own writing.
			if wasOne && isOne && (a.Generation != b.Generation || a.UID != b.UID) {
				wake(now)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch autoscalers: %w", err)
	}
	c.loop.Synced = []cache.DoneChecker{seen.HasSyncedChecker(), pods.Informer().HasSyncedChecker()}
	return c, nil
}

// history returns that of the autoscaler; another object of the same name begins anew.
func (c *controller) history(hpa *autoscalingv2.HorizontalPodAutoscaler) *history {
	key := cache.MetaObjectToName(hpa)
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.histories[key]
	if h == nil || h.uid != hpa.UID {
		h = &history{uid: hpa.UID}
		c.histories[key] = h
	}
	return h
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	hpa, err := c.scalers.HorizontalPodAutoscalers(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		delete(c.histories, key)
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("read autoscaler: %w", err)
	}
	l := &look{controller: c, seen: hpa, hpa: hpa.DeepCopy(), history: c.history(hpa), now: c.clock.Now()}
	if err := l.act(ctx); err != nil {
		// Its conditions and events tell whom it concerns.
		klog.FromContext(ctx).V(2).Info("Autoscaler could not be followed", "autoscaler", klog.KObj(hpa), "err", err)
	}
	if err := c.write(ctx, l); err != nil {
		return err
	}
	return &engine.Retry{After: period, Why: "metrics may have changed"}
}

// look is one look at an autoscaler. hpa is a copy of seen, whose status the look writes.
type look struct {
	*controller
	seen, hpa *autoscalingv2.HorizontalPodAutoscaler
	history   *history
	now       time.Time
}

func (l *look) warn(reason string, message string) {
	l.recorder.Event(l.hpa, corev1.EventTypeWarning, reason, message)
}

// find reads the scale of what the autoscaler scales.
func (l *look) find(ctx context.Context) (*scale.Target, error) {
	ref := &l.hpa.Spec.ScaleTargetRef
	gk, err := groupKind(ref)
	if err != nil {
		return nil, err
	}
	return l.scales.Find(ctx, gk, l.hpa.Namespace, ref.Name)
}

// act scales the target if it has to be, and fills in the status. Where it cannot, the status says why.
func (l *look) act(ctx context.Context) error {
	hpa := l.hpa
	t, err := l.find(ctx)
	if err != nil {
		l.warn("FailedGetScale", err.Error())
		l.set(autoscalingv2.AbleToScale, verdict{false, "FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err)})
		return err
	}
	l.set(autoscalingv2.AbleToScale, verdict{true, "SucceededGetScale", "the HPA controller was able to get the target's current scale"})
	current := t.Scale.Spec.Replicas
	l.history.begin(current, l.now)
	least := int32(1)
	if hpa.Spec.MinReplicas != nil {
		least = *hpa.Spec.MinReplicas
	}
	desired, why := current, ""
	var metrics []autoscalingv2.MetricStatus
	var partly error
	switch {
	case current == 0:
		l.set(autoscalingv2.ScalingActive, verdict{false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero"})
	case current > hpa.Spec.MaxReplicas:
		desired, why = hpa.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case current < least:
		desired, why = least, "Current number of replicas below Spec.MinReplicas"
	default:
		var best *proposal
		best, metrics, partly = l.measure(ctx, t)
		if best == nil {
			l.fill(current, hpa.Status.DesiredReplicas, metrics)
			l.warn("FailedComputeMetricsReplicas", partly.Error())
			return partly
		}
		switch {
		case best.replicas > current:
			why = best.metric + " above target"
		case best.replicas < current:
			why = "All metrics below target"
		}
		o := l.history.settle(&hpa.Spec, current, best.replicas, least, l.now)
		l.set(autoscalingv2.AbleToScale, o.able)
		l.set(autoscalingv2.ScalingLimited, o.limited)
		desired = o.replicas
	}
	if desired != current {
		if err := l.rescale(ctx, t, desired, why); err != nil {
			l.fill(current, hpa.Status.DesiredReplicas, metrics)
			return err
		}
	}
	l.fill(current, desired, metrics)
	return partly
}

// rescale changes the target's size.
func (l *look) rescale(ctx context.Context, t *scale.Target, desired int32, why string) error {
	from := t.Scale.Spec.Replicas
	if err := l.scales.Resize(ctx, t, desired); err != nil {
		l.recorder.Eventf(l.hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", desired, why, err)
		l.set(autoscalingv2.AbleToScale, verdict{false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err)})
		return fmt.Errorf("rescale: %w", err)
	}
	l.set(autoscalingv2.AbleToScale, verdict{true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired)})
	l.recorder.Eventf(l.hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", desired, why)
	l.history.record(l.hpa.Spec.Behavior, from, desired, l.now)
	at := metav1.NewTime(l.now)
	l.hpa.Status.LastScaleTime = &at
	klog.FromContext(ctx).Info("Successfully rescaled", "autoscaler", klog.KObj(l.hpa), "from", from, "to", desired, "reason", why)
	return nil
}
