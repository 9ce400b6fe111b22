// Package written is what a controller has written and its informers may not show yet. Who decides by an informer again before it does
// decides without what was decided last: it does that twice, or undoes it.
package written

import "k8s.io/apimachinery/pkg/util/resourceversion"

// Store is where an informer keeps what it has seen.
type Store interface {
	// LastStoreSyncResourceVersion is up to where the store has seen everything.
	LastStoreSyncResourceVersion() string
}

// Versions are the highest resource versions that were written, by the stores that are to show them. It is not safe for concurrent use.
type Versions map[Store]string

// Add notes what was written.
func (v Versions) Add(s Store, version string) {
	if have := v[s]; have == "" || !reached(have, version) {
		v[s] = version
	}
}

// Shown says whether every store shows what was written. If not, an event will come when one does.
func (v Versions) Shown() bool {
	for s, version := range v {
		if !reached(s.LastStoreSyncResourceVersion(), version) {
			return false
		}
	}
	return true
}

// reached says whether a resource version is at or past another. Ones that cannot be compared are taken for reached.
func reached(now, wanted string) bool {
	c, err := resourceversion.CompareResourceVersion(now, wanted)
	return now != "" && (err != nil || c >= 0)
}
