package devicetainteviction

import (
	"maps"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/peapod/peapod/internal/devicetaint"
)

// due says that who uses a claim has to go. The zero value says that nobody has to.
type due struct {
	// evict is true where there is a taint that is not tolerated, or not for ever.
	evict bool
	// at is when: at the earliest end of what is tolerated.
	at time.Time
	// rules are the UIDs of rules whose taints are among those, each once.
	rules map[types.UID]bool
}

// merge takes in what else is due.
func (d *due) merge(other due) {
	if !other.evict {
		return
	}
	if !d.evict || other.at.Before(d.at) {
		d.at = other.at
	}
	d.evict = true
	if d.rules == nil {
		d.rules = other.rules
		return
	}
	maps.Copy(d.rules, other.rules)
}

// dueOf says when the users of an allocated claim have to go. pool returns the slices of a pool. It is a pure function of what it is given.
func dueOf(claim *resourcev1.ResourceClaim, pool func(driver, pool string) []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) due {
	var d due
	for i := range claim.Status.Allocation.Devices.Results {
		r := &claim.Status.Allocation.Devices.Results[i]
		consider := func(taint *resourcev1.DeviceTaint, rule *resourcev1.DeviceTaintRule) {
			at, evict := deadline(taint, r.Tolerations)
			more := due{evict: evict, at: at}
			if rule != nil {
				more.rules = map[types.UID]bool{rule.UID: true}
			}
			d.merge(more)
		}
		if device := find(pool(r.Driver, r.Pool), r.Device); device != nil {
			for j := range device.Taints {
				consider(&device.Taints[j], nil)
			}
		}
		for _, rule := range rules {
			if devicetaint.Selects(rule, r.Driver, r.Pool, r.Device) {
				consider(&rule.Spec.Taint, rule)
			}
		}
	}
	return d
}

// deadline says when who has a device with the taint has to go, if ever: at once, reckoned from when the taint came, where it is not
// tolerated, else when the shortest toleration is over. A toleration of all effects has no end: how long it lasts is said of NoExecute alone.
func deadline(taint *resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (at time.Time, evict bool) {
	if taint.Effect != resourcev1.DeviceTaintEffectNoExecute {
		return at, false
	}
	if taint.TimeAdded != nil {
		at = taint.TimeAdded.Time
	}
	var lasts *int64
	for i := range tolerations {
		t := &tolerations[i]
		if !resourceclaim.ToleratesTaint(*t, *taint) {
			continue
		}
		if t.TolerationSeconds == nil || t.Effect != resourcev1.DeviceTaintEffectNoExecute {
			return time.Time{}, false
		}
		if seconds := max(0, *t.TolerationSeconds); lasts == nil || seconds < *lasts {
			lasts = &seconds
		}
	}
	if lasts != nil {
		at = at.Add(time.Duration(*lasts) * time.Second)
	}
	return at, true
}

// find returns the device of that name in the slices of a pool, nil if there is none. Slices of earlier generations than the latest do not
// count.
func find(slices []*resourcev1.ResourceSlice, name string) *resourcev1.Device {
	latest := generation(slices)
	for _, s := range slices {
		if s.Spec.Pool.Generation != latest {
			continue
		}
		for i := range s.Spec.Devices {
			if s.Spec.Devices[i].Name == name {
				return &s.Spec.Devices[i]
			}
		}
	}
	return nil
}

// generation is the latest of a pool.
func generation(slices []*resourcev1.ResourceSlice) int64 {
	var latest int64
	for _, s := range slices {
		latest = max(latest, s.Spec.Pool.Generation)
	}
	return latest
}
