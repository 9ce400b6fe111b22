// Package mvcc is the deterministic core of the store: a sequence of revisions over an ordered set of keys, held in
// memory. It has no goroutine, clock, disk or lock; what it does depends on the calls made and on nothing else, so that
// it can be tested against a model. The caller serialises access: any number of readers, or one writer.
//
// A write happens in two steps. Begin and the methods of Batch check preconditions and give out revisions against the
// state including what the batch has already done, without changing what readers see; Publish makes a batch visible.
// Between the two the caller makes the batch durable. A batch that is dropped instead leaves no trace.
//
// History is an undo log. Every resource (a subtree of keys) keeps its latest events, each with the value before and
// after; the state at an older revision is the present one with the later events taken back. Writes therefore pay
// nothing for readers of the past, and the past is bounded by the log's limits.
package mvcc
