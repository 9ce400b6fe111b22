// Package netdump reads lists from the kernel's network whole. The kernel gives a list in pieces and says so when
// something changed between two of them: on a machine where interfaces come and go all the time, that is often.
package netdump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// attempts is enough on any machine: a list takes less than a millisecond, and is interrupted by changes alone.
const attempts = 50

// Repeat does a reading until no change interrupts it. After many attempts it returns netlink.ErrDumpInterrupted, and what
// the last one read is not complete.
func Repeat(read func() error) error {
	var err error
	for range attempts {
		if err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// List is Repeat for a function that returns a list.
func List[T any](read func() ([]T, error)) ([]T, error) {
	var list []T
	err := Repeat(func() (err error) {
		list, err = read()
		return err
	})
	return list, err
}
