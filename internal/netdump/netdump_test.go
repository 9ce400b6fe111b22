package netdump

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestListIsReadUntilItIsWhole(t *testing.T) {
	calls := 0
	got, err := List(func() ([]string, error) {
		if calls++; calls < 4 {
			return []string{"a"}, netlink.ErrDumpInterrupted
		}
		return []string{"a", "b"}, nil
	})
	if err != nil || calls != 4 || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after %d calls: %v, %v", calls, got, err)
	}
}

func TestOtherErrorsAreNotRepeated(t *testing.T) {
	calls, broken := 0, errors.New("broken")
	if err := Repeat(func() error { calls++; return broken }); err != broken || calls != 1 {
		t.Errorf("after %d calls: %v", calls, err)
	}
}

func TestEndlessInterruptionIsAnError(t *testing.T) {
	if err := Repeat(func() error { return netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Error(err)
	}
}
