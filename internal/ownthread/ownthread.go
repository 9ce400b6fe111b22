// Package ownthread runs functions that change their thread for good, such as its namespaces.
package ownthread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs fn on a thread of its own, which ends with it: fn may change the thread's namespaces for good. The thread is never
// the process's first, which cannot end and whose namespaces are what /proc/self and /proc/net show to the whole process.
func Run(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// While this goroutine holds the first thread, another one cannot get it.
			defer runtime.UnlockOSThread()
			result <- Run(fn)
			return
		}
		result <- fn() // never unlocked: the thread ends with the goroutine
	}()
	return <-result
}
