package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
)

// Config is what a Prober needs.
type Config struct {
	Checker *Checker
	// Record records an event about a container.
	Record func(p *v1.Pod, container, kind, reason, message string)
	Clock  clock.WithTicker // nil means the real one
	// Metrics count answers; optional.
	Metrics *metrics.Set
}

// Prober runs the probes of all Pods; it implements pod.Prober.
type Prober struct {
	cfg Config

	mu   sync.Mutex
	ctx  context.Context // of Run while it lets probes start
	wake func(types.UID)
	pods map[types.UID]map[key]*loop
	wg   sync.WaitGroup

	counted map[types.UID]map[metrics.Probe]bool // by what answers were counted
}

type key struct {
	containerID string
	kind        kind
}

type kind string

const (
	startup   kind = "Startup"
	liveness  kind = "Liveness"
	readiness kind = "Readiness"
)

// New makes a Prober.
func New(cfg Config) *Prober {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Prober{cfg: cfg, pods: map[types.UID]map[key]*loop{}, counted: map[types.UID]map[metrics.Probe]bool{}}
}

// Run lets probes run until ctx ends, and waits for them. wake is called when
// a result of a Pod changed.
func (p *Prober) Run(ctx context.Context, wake func(types.UID)) {
	p.mu.Lock()
	p.ctx, p.wake = ctx, wake
	for _, loops := range p.pods {
		for _, l := range loops {
			p.start(l)
		}
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.ctx = nil // nobody starts while it is waited for those that run
	p.mu.Unlock()
	p.wg.Wait()
}

// loop is one probe of one container instance.
type loop struct {
	kind      kind
	probe     *v1.Probe
	startedAt time.Time
	stop      context.CancelFunc
	now       chan struct{} // probe at once: the startup probe succeeded

	mu     sync.Mutex
	target target
	result pod.Result
	runs   int // equal answers in a row
	last   bool

	succeeded bool // at least once
}

// Sync implements pod.Prober.
func (p *Prober) Sync(spec *v1.Pod, podIP string, instances []pod.Instance, ending bool) {
	want := map[key]bool{}
	p.mu.Lock()
	defer p.mu.Unlock()
	loops := p.pods[spec.UID]
	if loops == nil {
		if len(instances) == 0 {
			return
		}
		loops = map[key]*loop{}
		p.pods[spec.UID] = loops
	}
	for _, in := range instances {
		t := target{pod: spec, podIP: podIP, container: in.Container, containerID: in.ID}
		for _, x := range []struct {
			kind  kind
			probe *v1.Probe
		}{{startup, in.Container.StartupProbe}, {liveness, in.Container.LivenessProbe}, {readiness, in.Container.ReadinessProbe}} {
			if x.probe == nil || (ending && x.kind != readiness) {
				continue
			}
			k := key{in.ID, x.kind}
			want[k] = true
			if l := loops[k]; l != nil {
				l.mu.Lock()
				l.target = t
				l.mu.Unlock()
				continue
			}
			l := &loop{kind: x.kind, probe: x.probe, startedAt: in.StartedAt, target: t, now: make(chan struct{}, 1)}
			l.result = known(spec, in.ID, x.kind)
			l.succeeded = l.result == pod.Success
			loops[k] = l
			p.start(l)
		}
	}
	for k, l := range loops {
		if !want[k] {
			if l.stop != nil {
				l.stop()
			}
			delete(loops, k)
		}
	}
	if len(loops) == 0 {
		delete(p.pods, spec.UID)
	}
}

// start starts a loop's goroutine, if it has something to ask; the caller holds
// p.mu.
func (p *Prober) start(l *loop) {
	if p.ctx == nil || l.stop != nil || (l.kind == startup && l.get() != pod.Unknown) {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	l.stop = cancel
	p.wg.Go(func() {
		defer cancel()
		p.run(ctx, l)
	})
}

// Results implements pod.Prober.
func (p *Prober) Results(uid types.UID) map[string]pod.Probes {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]pod.Probes{}
	for k, l := range p.pods[uid] {
		r := out[k.containerID]
		l.mu.Lock()
		switch k.kind {
		case startup:
			r.Startup = l.result
		case liveness:
			r.Liveness = l.result
		case readiness:
			r.Readiness = l.result
		}
		l.mu.Unlock()
		out[k.containerID] = r
	}
	return out
}

// Forget implements pod.Prober.
func (p *Prober) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.pods[uid] {
		if l.stop != nil {
			l.stop()
		}
	}
	delete(p.pods, uid)
	for counted := range p.counted[uid] {
		p.cfg.Metrics.ForgetProbe(counted)
	}
	delete(p.counted, uid)
}

// run probes at its period until stopped. A container that a kubelet found
// running gets its first probe at a random time within the period, so that
// thousands do not fire together.
func (p *Prober) run(ctx context.Context, l *loop) {
	began := p.cfg.Clock.Now()
	delay := l.begins().Sub(began)
	if period := l.period(); began.Sub(l.startedAt) > period {
		delay = time.Duration(rand.Int64N(int64(period)))
	}
	timer := p.cfg.Clock.NewTimer(max(delay, 0))
	defer func() { timer.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		case <-l.now:
			if p.cfg.Clock.Now().Before(l.allowed()) {
				continue
			}
		}
		began := p.cfg.Clock.Now()
		if p.due(l) && p.once(ctx, l) {
			return
		}
		timer.Stop()
		now := p.cfg.Clock.Now()
		timer = p.cfg.Clock.NewTimer(max(0, l.gap(now)-now.Sub(began)))
	}
}

func (l *loop) period() time.Duration {
	return time.Duration(max(l.probe.PeriodSeconds, 1)) * time.Second
}

// allowed is when the container may be asked for the first time.
func (l *loop) allowed() time.Time {
	return l.startedAt.Add(time.Duration(l.probe.InitialDelaySeconds) * time.Second)
}

// counts is from when on a failure speaks against the container: it has at
// least a period to come up in, as it has with Kubernetes' own kubelet, which
// asks for the first time when the first period is over.
func (l *loop) counts() time.Time {
	if first := l.startedAt.Add(l.period()); first.After(l.allowed()) {
		return first
	}
	return l.allowed()
}

// begins is when the container is asked for the first time: what can only end
// it is asked once that counts.
func (l *loop) begins() time.Time {
	if l.kind == liveness {
		return l.counts()
	}
	return l.allowed()
}

// gap is how long after a probe the next one is made: the period, but sooner
// while a container comes up, so that one that listens a moment after its first
// probe does not wait a whole period for the second. The gaps begin with a
// second and double, which costs few probes; for startup until failures count,
// for readiness until the container was ready: till then they change nothing
// that others see. Kubernetes' description of periodSeconds allows for it, to
// make Pods ready faster.
func (l *loop) gap(now time.Time) time.Duration {
	period, early := l.period(), l.counts().Sub(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	grown := min(max(now.Sub(l.allowed()), time.Second), period)
	switch {
	case l.kind == readiness && !l.succeeded:
		return grown
	case l.kind == startup && early > 0:
		return min(grown, early)
	}
	return period
}

// due says whether the probe runs in this period: liveness and readiness wait
// for the startup probe, and that one runs until it succeeded.
func (p *Prober) due(l *loop) bool {
	if l.kind == startup {
		return l.get() == pod.Unknown
	}
	l.mu.Lock()
	uid, id := l.target.pod.UID, l.target.containerID
	l.mu.Unlock()
	p.mu.Lock()
	s := p.pods[uid][key{id, startup}]
	p.mu.Unlock()
	return s == nil || s.get() == pod.Success
}

func (l *loop) get() pod.Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.result
}

// once probes once and counts; over: nothing is left to find out.
func (p *Prober) once(ctx context.Context, l *loop) (over bool) {
	l.mu.Lock()
	t := l.target
	l.mu.Unlock()
	began := p.cfg.Clock.Now()
	v, err := p.check(ctx, &t, l.probe)
	if ctx.Err() != nil {
		return true
	}
	p.tell(ctx, l.kind, &t, v, err, p.cfg.Clock.Since(began))
	if err != nil {
		p.cfg.Record(t.pod, t.container.Name, v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %v", l.kind, err))
		klog.FromContext(ctx).V(3).Info("Probe could not be made", "pod", klog.KObj(t.pod), "container", t.container.Name, "kind", l.kind, "err", err)
		return false
	}
	if !v.ok && l.kind == startup && p.cfg.Clock.Now().Before(l.counts()) {
		return false
	}
	switch {
	case !v.ok:
		p.cfg.Record(t.pod, t.container.Name, v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", l.kind, v.text))
	case v.warning:
		p.cfg.Record(t.pod, t.container.Name, v1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", l.kind, v.text))
	}
	changed := l.count(v.ok)
	result := l.get()
	if changed {
		if l.kind == startup && result == pod.Success {
			p.hurry(t.pod.UID, t.containerID)
		}
		p.wake(t.pod.UID)
	}
	// After these the container is ended or the probe has no more to say.
	return (l.kind != readiness && result == pod.Failed) || (l.kind == startup && result == pod.Success)
}

// tell counts an answer, for as long as its Pod is here: the containers of a Pod may restart.
func (p *Prober) tell(ctx context.Context, kind kind, t *target, v verdict, err error, took time.Duration) {
	if p.cfg.Metrics == nil {
		return
	}
	result := "successful"
	switch {
	case err != nil:
		result = "unknown"
	case !v.ok:
		result = "failed"
	}
	of := metrics.Probe{Kind: string(kind), Container: t.container.Name, Pod: t.pod.Name, Namespace: t.pod.Namespace, UID: string(t.pod.UID)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // who ends the probe may have forgotten what was counted
		return
	}
	if p.counted[t.pod.UID] == nil {
		p.counted[t.pod.UID] = map[metrics.Probe]bool{}
	}
	p.counted[t.pod.UID][of] = true
	p.cfg.Metrics.Probed(of, result, took)
}

// check tries three times when a check cannot be made at all.
func (p *Prober) check(ctx context.Context, t *target, probe *v1.Probe) (v verdict, err error) {
	for range 3 {
		if v, err = p.cfg.Checker.check(ctx, t, probe); err == nil || ctx.Err() != nil {
			return v, err
		}
	}
	return v, err
}

// count adds an answer; it reports whether the result changed by it.
func (l *loop) count(ok bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs == 0 || l.last != ok {
		l.runs, l.last = 0, ok
	}
	l.runs++
	l.succeeded = l.succeeded || ok
	threshold, result := max(l.probe.FailureThreshold, 1), pod.Failed
	if ok {
		threshold, result = max(l.probe.SuccessThreshold, 1), pod.Success
	}
	if l.runs < int(threshold) || l.result == result {
		return false
	}
	l.result = result
	return true
}

// hurry makes the other probes of a container run at once.
func (p *Prober) hurry(uid types.UID, containerID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kind := range []kind{liveness, readiness} {
		if l := p.pods[uid][key{containerID, kind}]; l != nil {
			select {
			case l.now <- struct{}{}:
			default:
			}
		}
	}
}
