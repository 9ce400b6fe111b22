// Package pod is the life of Pods on a node: from the moment the API server
// binds a Pod here until nothing of it is left on the machine.
//
// Each Pod has one goroutine (Worker), a thin shell around a deterministic
// core: Decide looks at what is declared (the Pod), what is (a Snapshot of the
// runtime, volumes, probe results, operations under way) and the time, and
// answers with the actions to start, the status to publish and when to look
// again. The stations of a Pod's way are the states of machine.go. Nothing
// polls: the worker wakes for API changes, runtime events, finished operations
// and its own timers.
//
// The package speaks CRI and client-go only.
package pod
