// Package disk keeps the store's present state on disk, in a Pebble database. It knows keys, values and batches, not
// what they mean; history is not kept.
//
// Commit is the one write: it makes a whole batch durable, or, after a crash at any instant, leaves no part of it. It
// returns after the batch has been synced, once for however many writes the batch holds.
//
// A write that fails inside the database leaves it in a state that cannot be known: what failed may or may not be on
// disk. DB then refuses every further write, fences the files off so that nothing running in the background touches
// them, and has to be opened again. To keep that rare, Commit refuses batches, and stays usable, while the file system
// has less free space than the reserve; batches that only delete may use a part of the reserve.
package disk
