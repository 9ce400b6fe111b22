package mvcc

import "sync/atomic"

// Value is what a key holds since revision Mod. It is immutable but for the memo.
type Value struct {
	Key string
	// Data is the encoded value. Nobody may change it.
	Data []byte
	// Create and Mod are the revisions that created the key and wrote this value; Version counts the writes since
	// creation, from 1.
	Create, Mod, Version int64
	// Expires is when the key should be deleted, in Unix milliseconds; 0 means never. This package only keeps order.
	Expires int64

	memo atomic.Pointer[Memo]
}

// Memo is something derived from a Value's data that is costly to derive again. Owner tells who derived it, so that a
// reader that would derive something else does not take it for its own.
type Memo struct {
	Owner  any
	Object any
	// Note is a small thing that the owner has found out about Object; 0 at first. It may be set by any number of goroutines.
	Note atomic.Uint32
}

// Memo returns what SetMemo last set, or nil. Both may be called by any number of goroutines.
func (v *Value) Memo() *Memo { return v.memo.Load() }

// SetMemo sets the memo; nil drops it.
func (v *Value) SetMemo(m *Memo) { v.memo.Store(m) }

// Event is one change of one key at one revision. Cur is nil where the key was deleted, Prev where it was created.
type Event struct {
	Rev  int64
	Key  string
	Cur  *Value
	Prev *Value
}

// eventOverhead estimates what an event costs beyond the bytes of its values: the event, its share of the log, the
// Value structs and the key.
const eventOverhead = 256

// size is what the event holds in memory at most, in bytes. The value before is counted though it is often the value
// after of an event that is still in the log: the limit is an upper bound.
func (e *Event) size() int64 {
	n := int64(eventOverhead)
	if e.Cur != nil {
		n += int64(len(e.Cur.Data))
	}
	if e.Prev != nil {
		n += int64(len(e.Prev.Data))
	}
	return n
}
