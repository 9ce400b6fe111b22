package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/controllers/pods"
)

// sample is what was measured of one Pod: a value in thousandths, over the window that ended at a time.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

// samples are those of Pods, by name.
type samples map[string]sample

func (s samples) total() (sum int64) {
	for _, one := range s {
		sum += one.value
	}
	return sum
}

// tolerances are how far a ratio may be from one, each way, with nothing done about it.
type tolerances struct{ down, up float64 }

func (t tolerances) hold(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// crew are the Pods of a target, told apart by what their samples are worth. have holds the samples that count.
type crew struct {
	have             samples
	ready            int
	unready, missing []string
}

// tellApart sorts Pods. What is ending or has failed counts for nothing; of CPU, neither does what a Pod used while it started. It
// takes from measured what does not count.
func tellApart(all []*corev1.Pod, measured samples, cpu bool, now time.Time) (*crew, error) {
	if len(all) == 0 {
		return nil, errNoPods
	}
	c := &crew{have: measured}
	for _, p := range all {
		one, found := measured[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(measured, p.Name)
		case p.Status.Phase == corev1.PodPending:
			delete(measured, p.Name)
			c.unready = append(c.unready, p.Name)
		case !found:
			c.missing = append(c.missing, p.Name)
		case cpu && starting(p, one, now):
			delete(measured, p.Name)
			c.unready = append(c.unready, p.Name)
		default:
			c.ready++
		}
	}
	if len(measured) == 0 {
		return nil, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return c, nil
}

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// starting says whether what a Pod used may be that of its start: in its first minutes, unless it has been ready for the whole
// sample; later, if it has not once been ready.
func starting(p *corev1.Pod, s sample, now time.Time) bool {
	var ready *corev1.PodCondition
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			ready = &p.Status.Conditions[i]
		}
	}
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	start, changed := p.Status.StartTime.Time, ready.LastTransitionTime.Time
	if start.Add(cpuInitializationPeriod).After(now) {
		return ready.Status == corev1.ConditionFalse || s.at.Before(changed.Add(s.window))
	}
	return ready.Status == corev1.ConditionFalse && start.Add(initialReadinessDelay).After(changed)
}

// gauge compares what Pods use with what they should.
type gauge struct {
	// read returns the ratio of the two.
	read func(samples) (float64, error)
	// full is what a Pod that was not measured is taken to use before others are taken away for its sake.
	full func(pod string) int64
}

// replicas returns how many Pods it takes for the gauge to read one. The Pods of which nothing is known are taken to use what speaks
// against a change; where that turns the ratio around, nothing changes.
func (c *crew) replicas(current int32, g gauge, allowed tolerances) (int32, error) {
	ratio, err := g.read(c.have)
	if err != nil {
		return 0, err
	}
	grows := len(c.unready) > 0 && ratio > 1
	if !grows && len(c.missing) == 0 {
		if allowed.hold(ratio) {
			return current, nil
		}
		return ceil(ratio * float64(c.ready)), nil
	}
	for _, name := range c.missing {
		switch {
		case ratio < 1:
			c.have[name] = sample{value: g.full(name)}
		case ratio > 1:
			c.have[name] = sample{}
		}
	}
	if grows {
		for _, name := range c.unready {
			c.have[name] = sample{}
		}
	}
	again, err := g.read(c.have)
	if err != nil {
		return 0, err
	}
	if allowed.hold(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, nil
	}
	n := ceil(again * float64(len(c.have)))
	if again < 1 && n > current || again > 1 && n < current {
		return current, nil
	}
	return n, nil
}

// ceil rounds up, within what a number of Pods can be.
func ceil(f float64) int32 { return int32(min(max(math.Ceil(f), 0), math.MaxInt32)) }

// plain compares the Pods' average with a target amount; it is also returned.
func plain(target int64) (gauge, func(samples) int64) {
	average := func(s samples) int64 { return s.total() / int64(len(s)) }
	return gauge{
		read: func(s samples) (float64, error) { return float64(average(s)) / float64(target), nil },
		full: func(string) int64 { return target },
	}, average
}

// utilized compares what the Pods use with their requests, as a percentage. figures returns that percentage and the average amount.
func utilized(target int32, requests map[string]int64) (g gauge, figures func(samples) (int32, int64, error)) {
	figures = func(s samples) (int32, int64, error) {
		var used, requested, n int64
		for name, one := range s {
			if request, ok := requests[name]; ok {
				used, requested, n = used+one.value, requested+request, n+1
			}
		}
		if requested == 0 {
			return 0, 0, errors.New("no metrics returned matched known pods")
		}
		return int32(used * 100 / requested), used / n, nil
	}
	return gauge{
		read: func(s samples) (float64, error) {
			percent, _, err := figures(s)
			return float64(percent) / float64(target), err
		},
		full: func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 },
	}, figures
}

// requestsOf returns what each Pod asks for of a resource, in thousandths; where container is not empty, what that container does.
func requestsOf(all []*corev1.Pod, container string, resource corev1.ResourceName) (map[string]int64, error) {
	requests := make(map[string]int64, len(all))
	for _, p := range all {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(p) {
			q, ok := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[resource]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", resource, p.Name)
			}
			requests[p.Name] = q.MilliValue()
			continue
		}
		n, err := containerRequests(p, container, resource)
		if err != nil {
			return nil, err
		}
		requests[p.Name] = n
	}
	return requests, nil
}

// containerRequests adds up what the containers ask for that run as long as the Pod does.
func containerRequests(p *corev1.Pod, container string, resource corev1.ResourceName) (int64, error) {
	lasting := p.Spec.Containers[:len(p.Spec.Containers):len(p.Spec.Containers)]
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			lasting = append(lasting, c)
		}
	}
	var sum int64
	found := container == ""
	for i := range lasting {
		c := &lasting[i]
		if container != "" && container != c.Name {
			continue
		}
		q, ok := c.Resources.Requests[resource]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, p.Name)
		}
		sum, found = sum+q.MilliValue(), true
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return sum, nil
}

// perReady returns how many Pods it takes where a value that is not that of single Pods is ratio times its target. Those that are not
// ready did not bring it about. Without Pods, the value alone says.
func perReady(current int32, ratio float64, all []*corev1.Pod, allowed tolerances) (int32, error) {
	if current == 0 {
		return ceil(ratio), nil
	}
	if allowed.hold(ratio) {
		return current, nil
	}
	if len(all) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, p := range all {
		if p.Status.Phase == corev1.PodRunning && pods.Ready(p) != nil {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

// perPod returns how many Pods it takes to share value, target each, and what each of current has of it; none has all of it.
func perPod(current int32, value, target int64, allowed tolerances) (replicas int32, each int64) {
	if current == 0 {
		return ceil(float64(value) / float64(target)), value
	}
	replicas = current
	if ratio := float64(value) / (float64(target) * float64(current)); !allowed.hold(ratio) {
		replicas = ceil(float64(value) / float64(target))
	}
	if share := math.Ceil(float64(value) / float64(current)); share < math.MaxInt64 {
		return replicas, int64(share)
	}
	return replicas, math.MaxInt64
}

// sum adds values up, to what can be counted at most.
func sum(values []int64) (total int64) {
	for _, v := range values {
		if v > 0 && total > math.MaxInt64-v {
			return math.MaxInt64
		}
		total += v
	}
	return total
}
