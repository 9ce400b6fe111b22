package store

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"k8s.io/utils/clock"
)

// Config says where a store is and how much it may hold. Zero values stand for the defaults.
type Config struct {
	// Dir is the data directory. It is made if need be.
	Dir string
	// FS is the file system that Dir is on; nil for the real one.
	FS vfs.FS
	// Clock tells the time, for expiry, bookmarks and the age of history; nil for the real one.
	Clock clock.Clock

	// MaxObjectBytes bounds an encoded object and its key together. The default is etcd's bound of a request, 1.5 MiB.
	MaxObjectBytes int
	// HistoryBytes bounds the memory of the history from which watches and paged lists are served, for all resources
	// together; a single resource gets at most half of it. The default is 16 MiB. However many objects there are, there is room for
	// one change of each, which takes as much memory again as they do.
	HistoryBytes int64
	// HistoryEvents bounds the history of each resource, where that has not more objects. The default is 16,384 events.
	HistoryEvents int
	// HistoryAge is how long history is kept where the other bounds allow it. The default is ten minutes.
	HistoryAge time.Duration
	// ReadAge is how long a list may go on page by page: how old a revision may be that is read, give or take half a minute. The
	// default is five minutes, as often as kube-apiserver compacts.
	ReadAge time.Duration
	// BookmarkInterval is how often watches that asked for bookmarks get one. The default is one minute.
	BookmarkInterval time.Duration
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.MaxObjectBytes <= 0 {
		c.MaxObjectBytes = 1536 << 10
	}
	if c.HistoryBytes <= 0 {
		c.HistoryBytes = 16 << 20
	}
	if c.HistoryEvents <= 0 {
		c.HistoryEvents = 16384
	}
	if c.HistoryAge <= 0 {
		c.HistoryAge = 10 * time.Minute
	}
	if c.ReadAge <= 0 {
		c.ReadAge = 5 * time.Minute
	}
	if c.BookmarkInterval <= 0 {
		c.BookmarkInterval = time.Minute
	}
	return c
}
