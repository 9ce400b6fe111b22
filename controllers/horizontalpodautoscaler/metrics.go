package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/scale"
)

// measure asks all metrics. The best proposal is the highest; there is none where no metric says anything, or where one that does not
// might speak against making the target smaller. The error tells of metrics that say nothing.
func (l *look) measure(ctx context.Context, t *scale.Target) (best *proposal, statuses []autoscalingv2.MetricStatus, err error) {
	a := &asked{namespace: l.hpa.Namespace, wanted: t.Scale.Spec.Replicas, there: t.Scale.Status.Replicas, allowed: l.tolerances()}
	if a.selector, a.pods, err = l.selected(t.Scale.Status.Selector); err != nil {
		return nil, nil, err
	}
	specs := l.hpa.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var first *unknown
	invalid := 0
	for i := range specs {
		p, u := l.propose(ctx, &specs[i], a)
		if u != nil {
			l.warn(u.reason, u.cause.Error())
			if invalid++; first == nil {
				first = u
			}
			continue
		}
		statuses[i] = p.status
		if best == nil || p.replicas > best.replicas {
			best = p
		}
	}
	if first != nil {
		err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(specs), first)
		if best == nil || best.replicas < a.wanted {
			l.set(autoscalingv2.ScalingActive, verdict{false, first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause)})
			return nil, statuses, err
		}
	}
	l.set(autoscalingv2.ScalingActive, verdict{true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from " + best.metric})
	return best, statuses, err
}

func (l *look) tolerances() tolerances {
	t := tolerances{tolerance, tolerance}
	if b := l.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

// selected returns the target's Pods, which no other autoscaler may have too: the two would not agree on how many there are to be.
func (l *look) selected(text string) (labels.Selector, []*corev1.Pod, error) {
	if text == "" {
		err := errors.New("selector is required")
		l.warn("SelectorRequired", err.Error())
		l.set(autoscalingv2.ScalingActive, verdict{false, "InvalidSelector", "the HPA target's scale is missing a selector"})
		return nil, nil, err
	}
	selector, err := labels.Parse(text)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		l.warn("InvalidSelector", err.Error())
		l.set(autoscalingv2.ScalingActive, verdict{false, "InvalidSelector", err.Error()})
		return nil, nil, err
	}
	pods, err := l.pods.Pods(l.hpa.Namespace).List(selector)
	if err != nil {
		return nil, nil, fmt.Errorf("list pods: %w", err)
	}
	if several := l.rivals(selector, pods); len(several) > 1 {
		err := fmt.Errorf("pods by selector %s are controlled by multiple HPAs: [%s]", text, strings.Join(several, " "))
		l.warn("AmbiguousSelector", err.Error())
		l.set(autoscalingv2.ScalingActive, verdict{false, "AmbiguousSelector", err.Error()})
		return nil, nil, err
	}
	return selector, pods, nil
}

// rivals remembers the selector and names the autoscalers that have one of the Pods, this one among them.
func (l *look) rivals(selector labels.Selector, pods []*corev1.Pod) []string {
	mine := cache.MetaObjectToName(l.hpa)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history.selector = selector
	names := []string{fmt.Sprintf("{%s %s}", mine.Name, mine.Namespace)}
	for key, h := range l.histories {
		if key != mine && key.Namespace == mine.Namespace && h.selector != nil &&
			slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return h.selector.Matches(labels.Set(p.Labels)) }) {
			names = append(names, fmt.Sprintf("{%s %s}", key.Name, key.Namespace))
		}
	}
	slices.Sort(names)
	return names
}
