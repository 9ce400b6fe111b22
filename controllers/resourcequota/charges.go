package resourcequota

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Admission charges a quota before the object is stored, and the object reaches this controller's informers later still. A
// count in between misses it, and would let one more in than the quota allows.
const (
	// settle is how long after a charge a count may not lower what is used.
	settle = 500 * time.Millisecond
	// settleMost bounds that, where objects are created without a pause.
	settleMost = 5 * time.Second
	// checkAfter is when a charge is checked: a request that was charged may have failed afterwards.
	checkAfter = 10 * time.Second
)

// charges remembers when quotas were charged last, and since when a lower count waits.
type charges struct {
	mu            sync.Mutex
	last, waiting map[cache.ObjectName]time.Time
}

func newCharges() charges {
	return charges{last: map[cache.ObjectName]time.Time{}, waiting: map[cache.ObjectName]time.Time{}}
}

func (c *charges) charged(key cache.ObjectName, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[key] = now
}

func (c *charges) forget(key cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, key)
	delete(c.waiting, key)
}

// wait returns how long a count has to wait before it may be written; only one that is lower ever has to.
func (c *charges) wait(key cache.ObjectName, lower bool, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := settle - now.Sub(c.last[key])
	if !lower || left <= 0 {
		delete(c.waiting, key)
		return 0
	}
	since, ok := c.waiting[key]
	if !ok {
		since = now
		c.waiting[key] = now
	}
	if now.Sub(since) >= settleMost {
		delete(c.waiting, key)
		return 0
	}
	return left
}

// lowers says whether anything of now is less than it was.
func lowers(now, was corev1.ResourceList) bool {
	for name, before := range was {
		if q, ok := now[name]; ok && q.Cmp(before) < 0 {
			return true
		}
	}
	return false
}
