package evict

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/static"
)

// Observer tells how much of everything is left.
type Observer interface {
	Observe(context.Context) (Observations, error)
	// Dedicated says whether images have a file system of their own.
	Dedicated(context.Context) (bool, error)
}

// Stats tells what Pods use.
type Stats interface {
	// Summary is of all running Pods.
	Summary(context.Context) (*statsapi.Summary, error)
	// Storage is of one Pod's disk use, at most age old; nil if it does not run.
	Storage(ctx context.Context, p *v1.Pod, age time.Duration) (*statsapi.PodStats, error)
}

// Config is what a Manager is made from. What is not called optional is
// required.
type Config struct {
	NodeName string
	Observer Observer
	Stats    Stats
	// Pods are those of the node; Evict ends one of them.
	Pods  func() []*v1.Pod
	Evict func(types.UID, pod.Eviction) error
	// Recorder records events as the kubelet.
	Recorder func() record.EventRecorder
	// Changed is called when a pressure began or ended.
	Changed func()
	// Reclaim frees disk that no Pod needs, best first; asked before Pods are
	// ended. Optional.
	Reclaim []func(context.Context) error
	// Thresholds are when the node acts; nil means DefaultThresholds.
	Thresholds []Threshold
	// MaxPodGrace bounds the seconds that a Pod gets to end which ends for a
	// threshold with a grace; negative: it gets as many as it asks for.
	MaxPodGrace int64
	// Transition is how long a pressure is told of after it is over; 0 means
	// DefaultTransition.
	Transition time.Duration
	// Every is how often the machine is looked at, 0 means 10 s; Hurry the
	// same while a threshold is near or crossed, 0 means 1 s.
	Every, Hurry time.Duration
	Clock        clock.WithTicker // nil means the real one
	Metrics      *metrics.Set     // optional
}

// DefaultTransition is Kubernetes' default of Config.Transition.
const DefaultTransition = 5 * time.Minute

// Manager evicts. It implements node.Pressure and pod.Admitter.
type Manager struct {
	cfg Config

	mu         sync.Mutex
	conditions Conditions

	// Owned by Run.
	state   State
	evicted map[types.UID]eviction  // of Pods that are still here
	last    types.UID               // the newest of them
	measure map[types.UID]time.Time // when a Pod's disk use is measured next
}

// eviction is one that was begun.
type eviction struct {
	until time.Time // when the next Pod no longer waits for this one to be gone
	soon  bool      // the Pod got no time to end
}

// New makes a Manager.
func New(cfg Config) (*Manager, error) {
	if cfg.Observer == nil || cfg.Stats == nil || cfg.Pods == nil || cfg.Evict == nil || cfg.Recorder == nil || cfg.Changed == nil {
		return nil, errors.New("make eviction manager: observer, statistics, pods, evict, recorder and changed are required")
	}
	if cfg.Thresholds == nil {
		cfg.Thresholds = DefaultThresholds()
	}
	for i := range cfg.Thresholds {
		if err := cfg.Thresholds[i].validate(); err != nil {
			return nil, err
		}
	}
	for d, def := range map[*time.Duration]time.Duration{
		&cfg.Transition: DefaultTransition, &cfg.Every: 10 * time.Second, &cfg.Hurry: time.Second,
	} {
		if *d == 0 {
			*d = def
		}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Manager{cfg: cfg, conditions: Conditions{}, evicted: map[types.UID]eviction{}, measure: map[types.UID]time.Time{}}, nil
}

// Kept implements node.Pressure.
func (m *Manager) Kept(capacity v1.ResourceList) v1.ResourceList {
	return Kept(m.cfg.Thresholds, capacity)
}

// Pressure implements node.Pressure.
func (m *Manager) Pressure() (memory, disk, pids bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, memory = m.conditions[v1.NodeMemoryPressure]
	_, disk = m.conditions[v1.NodeDiskPressure]
	_, pids = m.conditions[v1.NodePIDPressure]
	return memory, disk, pids
}

// Admit implements pod.Admitter: a node that is short of something takes no
// Pod that would make it worse.
func (m *Manager) Admit(_ context.Context, p *v1.Pod, _ []*v1.Pod) *pod.Refusal {
	m.mu.Lock()
	list := m.conditions.List()
	m.mu.Unlock()
	if len(list) == 0 || static.Critical(p) || (len(list) == 1 && list[0] == v1.NodeMemoryPressure && sparesMemory(p)) {
		return nil
	}
	return &pod.Refusal{Reason: reason, Message: fmt.Sprintf("The node had condition: %v. ", list)}
}

// Run looks after the node until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	log := klog.FromContext(ctx).WithName("eviction")
	ctx = klog.NewContext(ctx, log)
	for {
		again, err := m.Sync(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error(err, "Looking after the node's resources failed")
		}
		t := m.cfg.Clock.NewTimer(again)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// Sync looks at the machine once and does at most one thing for it: it evicts
// the Pods that exceed their own limits, or frees disk, or evicts one Pod.
// again is how long until it is to look the next time. Run calls it; it must not
// run twice at once.
func (m *Manager) Sync(ctx context.Context) (again time.Duration, err error) {
	o, observeErr := m.cfg.Observer.Observe(ctx)
	v := m.judge(ctx, o)
	again = m.cfg.Every
	if v.Next > 0 {
		again = min(again, v.Next)
	}
	if v.Near {
		again = min(again, m.cfg.Hurry)
	}
	pods := active(m.cfg.Pods())
	m.forget(pods)
	over, err := m.enforceLimits(ctx, pods)
	err = errors.Join(observeErr, err)
	switch {
	case over:
		return m.cfg.Hurry, err
	case len(v.Met) == 0:
		return again, err
	case m.waits(v.Met[0].Hard()):
		return m.cfg.Hurry, err
	}
	acted, relieveErr := m.relieve(ctx, v.Met[0], o, pods)
	if acted {
		again = m.cfg.Hurry
	}
	return again, errors.Join(err, relieveErr)
}

// judge decides and publishes the conditions.
func (m *Manager) judge(ctx context.Context, o Observations) Verdict {
	had := m.state.Conditions
	v := Decide(m.cfg.Clock.Now(), m.cfg.Thresholds, o, m.state, m.cfg.Transition)
	m.state = v.State
	is := v.State.Conditions
	m.mu.Lock()
	m.conditions = is
	m.mu.Unlock()
	changed := len(had) != len(is)
	for c := range is {
		if _, ok := had[c]; !ok {
			changed = true
		}
	}
	if changed {
		klog.FromContext(ctx).Info("The node's pressures changed", "conditions", is.List())
		m.cfg.Changed()
	}
	return v
}

// limitAge is how often a Pod's disk use is held against its limits, and how old
// its measure may be then.
const limitAge = 10 * time.Second

// enforceLimits evicts the Pods that exceed their own limits of local storage.
// Only Pods that have such limits are measured.
func (m *Manager) enforceLimits(ctx context.Context, pods []*v1.Pod) (evicted bool, err error) {
	for _, p := range pods {
		began := m.cfg.Clock.Now()
		if _, ending := m.evicted[p.UID]; ending || !limited(p) || began.Before(m.measure[p.UID]) {
			continue
		}
		st, statErr := m.cfg.Stats.Storage(ctx, p, limitAge)
		// Measuring never takes more than a fiftieth of a core.
		m.measure[p.UID] = began.Add(max(limitAge, 50*m.cfg.Clock.Since(began)))
		if statErr != nil {
			err = errors.Join(err, fmt.Errorf("measure pod %s: %w", klog.KObj(p), statErr))
			continue
		}
		if st == nil {
			continue
		}
		if limit, why := Exceeded(p, st); why != "" && m.evict(ctx, p, immediate, pod.Eviction{Message: why}, nil) {
			m.cfg.Metrics.Evicted(limit)
			evicted = true
		}
	}
	return evicted, err
}

// settle is how long an evicted Pod may take to be gone, beyond what it gets to
// end, before the next one is evicted.
const settle = 30 * time.Second

// waits says whether the Pod that was evicted last is still ending: what it
// gives back may be enough. Nobody waits for one that takes its time when
// a hard threshold is crossed.
func (m *Manager) waits(hard bool) bool {
	e := m.evicted[m.last]
	return m.cfg.Clock.Now().Before(e.until) && (e.soon || !hard)
}

// forget drops the Pods that are gone.
func (m *Manager) forget(pods []*v1.Pod) {
	here := make(map[types.UID]bool, len(pods))
	for _, p := range pods {
		here[p.UID] = true
	}
	for uid := range m.evicted {
		if !here[uid] {
			delete(m.evicted, uid)
		}
	}
	for uid := range m.measure {
		if !here[uid] {
			delete(m.measure, uid)
		}
	}
}

// relieve frees what runs short: first what nobody needs, then a Pod. It
// reports whether a Pod was evicted.
func (m *Manager) relieve(ctx context.Context, t Threshold, o Observations, pods []*v1.Pod) (bool, error) {
	log := klog.FromContext(ctx)
	what := t.Signal.resource()
	log.Info("Attempting to reclaim", "resource", what, "signal", t.Signal)
	m.cfg.Recorder().Eventf(m.nodeRef(), v1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", what)
	dedicated, err := m.cfg.Observer.Dedicated(ctx)
	if err != nil {
		return false, err
	}
	enough, err := m.reclaim(ctx, t, dedicated)
	if enough {
		log.Info("Reduced the pressure without evicting pods", "resource", what)
		return false, err
	}
	if err != nil {
		log.Error(err, "Freeing what no pod needs failed", "resource", what)
	}
	return m.evictOne(ctx, t, o, pods, dedicated)
}

// reclaim frees disk that no Pod needs. enough: no threshold is crossed any
// more, and as much was reclaimed as is to be.
func (m *Manager) reclaim(ctx context.Context, t Threshold, dedicated bool) (enough bool, err error) {
	r := t.Signal.resource()
	if len(m.cfg.Reclaim) == 0 || (r != v1.ResourceEphemeralStorage && r != inodes) || (dedicated && !t.Signal.images()) {
		return false, nil
	}
	var errs []error
	for _, free := range m.cfg.Reclaim {
		errs = append(errs, free(ctx))
	}
	o, err := m.cfg.Observer.Observe(ctx)
	if err != nil {
		return false, errors.Join(append(errs, err)...)
	}
	return relieved(m.cfg.Thresholds, o), errors.Join(errs...)
}

// evictOne ends the Pod that should end first; false if none may end.
func (m *Manager) evictOne(ctx context.Context, t Threshold, o Observations, pods []*v1.Pod, dedicated bool) (bool, error) {
	summary, err := m.cfg.Stats.Summary(ctx)
	if err != nil {
		return false, fmt.Errorf("rank pods for eviction: %w", err)
	}
	usage := Usage{}
	for i := range summary.Pods {
		usage[types.UID(summary.Pods[i].PodRef.UID)] = &summary.Pods[i]
	}
	for _, p := range Rank(pods, t.Signal, usage, dedicated) {
		if _, tried := m.evicted[p.UID]; tried {
			continue
		}
		why, annotations := message(p, t, o, usage[p.UID])
		condition := &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: why,
		}
		if m.evict(ctx, p, m.graceOf(p, t), pod.Eviction{Message: why, Condition: condition}, annotations) {
			m.last = p.UID
			m.cfg.Metrics.Evicted(string(t.Signal))
			return true, nil
		}
	}
	klog.FromContext(ctx).Info("Unable to evict any pods from the node")
	return false, nil
}

// immediate is what a Pod gets to end, in seconds, when the node cannot wait.
const immediate = 1

// graceOf is what a Pod gets to end that ends for t, in seconds.
func (m *Manager) graceOf(p *v1.Pod, t Threshold) int64 {
	own := p.Spec.TerminationGracePeriodSeconds
	switch {
	case t.Hard():
		return immediate
	case own == nil:
		return max(immediate, m.cfg.MaxPodGrace)
	case m.cfg.MaxPodGrace < 0:
		return max(immediate, *own)
	}
	return max(immediate, min(*own, m.cfg.MaxPodGrace))
}

// evict ends a Pod within grace seconds; it reports false for one that must not
// be ended.
func (m *Manager) evict(ctx context.Context, p *v1.Pod, grace int64, e pod.Eviction, annotations map[string]string) bool {
	log := klog.FromContext(ctx).WithValues("pod", klog.KObj(p), "podUID", p.UID)
	if static.Critical(p) {
		log.Info("Cannot evict a critical pod")
		return false
	}
	e.Reason, e.GraceSeconds = reason, grace
	if err := m.cfg.Evict(p.UID, e); err != nil {
		log.Error(err, "Evicting a pod failed")
		return false
	}
	log.Info("Evicting pod", "message", e.Message)
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	m.cfg.Recorder().AnnotatedEventf(ref, annotations, v1.EventTypeWarning, reason, "%s", e.Message)
	m.evicted[p.UID] = eviction{until: m.cfg.Clock.Now().Add(time.Duration(grace)*time.Second + settle), soon: grace == immediate}
	return true
}

func (m *Manager) nodeRef() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: m.cfg.NodeName, UID: types.UID(m.cfg.NodeName)}
}
