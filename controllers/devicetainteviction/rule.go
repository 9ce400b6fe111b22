package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	resourceac "k8s.io/client-go/applyconfigurations/resource/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/devicetaint"
)

// statusPeriod is the least time between two reports of the same generation of a rule; upstream's.
const statusPeriod = 10 * time.Second

// count takes in that a Pod was deleted because of rules.
func (c *controller) count(d due) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid := range d.rules {
		c.evicted[uid]++
	}
}

// tellRules has the rules report in a while: many Pods may come.
func (c *controller) tellRules(d due) {
	if len(d.rules) == 0 {
		return
	}
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, rule := range rules {
		if d.rules[rule.UID] {
			c.queue.AddAfter(key{rule: true, ObjectName: cache.MetaObjectToName(rule)}, statusPeriod)
		}
	}
}

// syncRule says in the rule's status how many Pods are still to be evicted because of it.
func (c *controller) syncRule(ctx context.Context, name cache.ObjectName) error {
	rule, err := c.rules.Get(name.Name)
	if apierrors.IsNotFound(err) {
		return c.forget()
	}
	if err != nil {
		return fmt.Errorf("read DeviceTaintRule %s: %w", name, err)
	}
	now := metav1.Now()
	before := meta.FindStatusCondition(rule.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if before != nil && before.ObservedGeneration == rule.Generation {
		if wait := statusPeriod - now.Sub(before.LastTransitionTime.Time); wait > 0 {
			return &engine.Retry{After: wait, Why: "its status was told a moment ago"}
		}
	}
	found, err := c.survey(rule)
	if err != nil {
		return err
	}
	condition := found.condition(rule)
	if before != nil {
		condition.LastTransitionTime = before.LastTransitionTime
		if equality.Semantic.DeepEqual(*before, condition) {
			return nil
		}
	}
	condition.LastTransitionTime = now
	_, err = c.client.ResourceV1().DeviceTaintRules().ApplyStatus(ctx, resourceac.DeviceTaintRule(rule.Name).WithUID(rule.UID).
		WithStatus(resourceac.DeviceTaintRuleStatus().WithConditions(&metav1ac.ConditionApplyConfiguration{
			Type: &condition.Type, Status: &condition.Status, Reason: &condition.Reason, Message: &condition.Message,
			ObservedGeneration: &condition.ObservedGeneration, LastTransitionTime: &condition.LastTransitionTime,
		})), metav1.ApplyOptions{FieldManager: Name, Force: true})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write status of DeviceTaintRule %s: %w", rule.Name, err)
	}
	return nil
}

// forget drops what is kept of rules that have gone.
func (c *controller) forget() error {
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list DeviceTaintRules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid := range c.evicted {
		if !slices.ContainsFunc(rules, func(r *resourcev1.DeviceTaintRule) bool { return r.UID == uid }) {
			delete(c.evicted, uid)
		}
	}
	return nil
}

// survey is what a rule means now.
type survey struct {
	// published and allocated are devices that it selects, in slices and in claims.
	published, allocated int
	// pending are Pods that it evicts, or would with effect NoExecute, and that are not deleted yet; namespaces are how many they are in.
	pending, namespaces int
	// evicted are the Pods that were deleted because of it since the controller started.
	evicted int
}

// survey looks at all claims, and where the rule has no effect at all slices.
func (c *controller) survey(rule *resourcev1.DeviceTaintRule) (survey, error) {
	var s survey
	c.mu.Lock()
	s.evicted = c.evicted[rule.UID]
	c.mu.Unlock()
	switch rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNone:
		rule = rule.DeepCopy()
		rule.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute // what if it were
		s.published = c.published(rule)
	case resourcev1.DeviceTaintEffectNoExecute:
	default:
		return s, nil
	}
	claims, err := c.claims.List(labels.Everything())
	if err != nil {
		return s, fmt.Errorf("list ResourceClaims: %w", err)
	}
	seen, namespaces := map[types.UID]bool{}, map[string]bool{}
	for _, claim := range claims {
		n := meant(claim, rule)
		s.allocated += n
		if n == 0 || !dueOf(claim, noSlices, []*resourcev1.DeviceTaintRule{rule}).evict {
			continue
		}
		for _, user := range claim.Status.ReservedFor {
			if user.APIGroup != "" || user.Resource != "pods" || seen[user.UID] {
				continue
			}
			pod, err := c.pods.Pods(claim.Namespace).Get(user.Name)
			if err == nil && pod.UID == user.UID && pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
				seen[user.UID], namespaces[claim.Namespace] = true, true
			}
		}
	}
	s.pending, s.namespaces = len(seen), len(namespaces)
	return s, nil
}

func noSlices(string, string) []*resourcev1.ResourceSlice { return nil }

// published is how many devices of slices the rule selects. Slices of earlier generations of their pools do not count.
func (c *controller) published(rule *resourcev1.DeviceTaintRule) int {
	n := 0
	for _, pool := range c.sliceIndex.ListIndexFuncValues(byPool) {
		driver, name, _ := strings.Cut(pool, "/")
		slices := c.pool(driver, name)
		latest := generation(slices)
		for _, s := range slices {
			if s.Spec.Pool.Generation != latest || !devicetaint.SelectsSome(rule, s) {
				continue
			}
			for i := range s.Spec.Devices {
				if devicetaint.Selects(rule, driver, name, s.Spec.Devices[i].Name) {
					n++
				}
			}
		}
	}
	return n
}

// condition is what the rule's status says; its texts are upstream's.
func (s survey) condition(rule *resourcev1.DeviceTaintRule) metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation}
	var says []string
	switch rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		switch {
		case s.pending > 0:
			c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
			says = append(says, fmt.Sprintf("%s to be evicted in %s.", many(s.pending, "pod needs", "pods need"), many(s.namespaces, "namespace", "different namespaces")))
		case s.evicted > 0:
			c.Reason = "Completed"
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		says = append(says, many(s.published, "published device", "published devices")+" selected.", many(s.allocated, "allocated device", "allocated devices")+" selected.",
			fmt.Sprintf("%s would be evicted in %s if the effect was NoExecute.", many(s.pending, "pod", "pods"), many(s.namespaces, "namespace", "different namespaces")),
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.")
	default:
		c.Reason = "OtherEffect"
		says = append(says, "Eviction only happens for the NoExecute effect.")
	}
	if s.evicted > 0 {
		says = append(says, many(s.evicted, "pod", "pods")+" evicted since starting the controller.")
	}
	c.Message = strings.Join(says, " ")
	return c
}

// many is a number of things.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
