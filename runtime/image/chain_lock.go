package image

import (
	"context"
	"sync"
)

// chainLocks lets one unpack at a time work on a layer (by chain ID) or a blob (by digest), so that images with common
// layers that are pulled together fetch and unpack these once. Its zero value is ready.
type chainLocks struct {
	mu    sync.Mutex
	locks map[string]*chainLock
}

type chainLock struct {
	held chan struct{} // one token: who sends it holds the lock
	refs int
}

// Lock waits for the lock of key or for the end of ctx.
func (l *chainLocks) Lock(ctx context.Context, key string) error {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = map[string]*chainLock{}
	}
	lock := l.locks[key]
	if lock == nil {
		lock = &chainLock{held: make(chan struct{}, 1)}
		l.locks[key] = lock
	}
	lock.refs++
	l.mu.Unlock()
	select {
	case lock.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.release(key, lock)
		return ctx.Err()
	}
}

// Unlock ends what a successful Lock began.
func (l *chainLocks) Unlock(key string) {
	l.mu.Lock()
	lock := l.locks[key]
	l.mu.Unlock()
	<-lock.held
	l.release(key, lock)
}

func (l *chainLocks) release(key string, lock *chainLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock.refs--; lock.refs == 0 {
		delete(l.locks, key)
	}
}
