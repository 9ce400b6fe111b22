package store

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
)

// Usage is how much a store has.
type Usage struct {
	// Resources are those that are served, and those that are not any more and of which something is left.
	Resources map[schema.GroupResource]storage.Stats
	// Disk is what the files take, in bytes.
	Disk int64
}

// Usage counts what the store has. It costs some microseconds, however much that is.
func (s *Store) Usage() Usage {
	u := Usage{Resources: map[schema.GroupResource]storage.Stats{}, Disk: s.disk.Size()}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for r, f := range s.families {
		keys, bytes := r.Count()
		if f.served == 0 && keys == 0 {
			continue
		}
		stats := storage.Stats{ObjectCount: keys}
		if keys > 0 {
			stats.EstimatedAverageObjectSizeBytes = bytes / keys
		}
		u.Resources[f.groupResource] = stats
	}
	return u
}

// Tell has the API server's metrics tell how large the store is and how many objects of each resource it has, until stop is called, which
// comes before Close. Nothing is counted unless somebody asks for metrics; the numbers of objects are those of the last time, as the
// gauges of k8s.io/apiserver are read beside what brings them up to date.
func (s *Store) Tell() (stop func()) {
	m := &monitor{store: s}
	metrics.SetStorageMonitorGetter(func() ([]metrics.Monitor, error) { return []metrics.Monitor{m}, nil })
	return func() {
		metrics.SetStorageMonitorGetter(func() ([]metrics.Monitor, error) { return nil, nil })
		m.end()
	}
}

// monitor is how metrics ask.
type monitor struct {
	mu    sync.Mutex
	store *Store // nil when it is to be asked no more
	// told are the resources that there are gauges of.
	told map[schema.GroupResource]storage.Stats
}

// Monitor implements metrics.Monitor.
func (m *monitor) Monitor(context.Context) (metrics.StorageMetrics, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store == nil {
		return metrics.StorageMetrics{}, errClosed
	}
	u := m.store.Usage()
	m.tell(u.Resources)
	return metrics.StorageMetrics{Size: u.Disk}, nil
}

// tell sets the gauges to now, and removes those of resources that are not in it.
func (m *monitor) tell(now map[schema.GroupResource]storage.Stats) {
	for of := range m.told {
		if _, ok := now[of]; !ok {
			metrics.DeleteStoreStats(of)
		}
	}
	for of, stats := range now {
		metrics.UpdateStoreStats(of, stats, nil)
	}
	m.told = now
}

// Close implements metrics.Monitor; it is called by nobody while the store is open.
func (m *monitor) Close() error { return nil }

func (m *monitor) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = nil
	m.tell(nil)
}
