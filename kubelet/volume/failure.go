package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/peapod/peapod/kubelet/pod"
)

// failure is a volume that could not be set up.
type failure struct {
	volume string
	err    error
}

// unprocessedError says that it is not known yet what a claim stands for.
type unprocessedError struct{ err error }

func (e *unprocessedError) Error() string { return e.err.Error() }
func (e *unprocessedError) Unwrap() error { return e.err }

// mountError says that the volume behind a claim is known and could not be mounted. It is worded to the end.
type mountError struct{ err error }

func (e *mountError) Error() string { return e.err.Error() }
func (e *mountError) Unwrap() error { return e.err }

// eventError is worded as the event of Kubernetes that it becomes.
type eventError struct{ message string }

func (e *eventError) Error() string { return e.message }

// underWay says that the volume has not failed, but is not there yet either.
func underWay(f failure) bool {
	var retry *pod.RetryError
	return errors.As(f.err, &retry) && retry.Quiet
}

// report words failures as FailedMount events do, keeping what says when to try again. Claims that could not be processed
// are told of together; otherwise the first failure stands for all. What is merely under way is told of where nothing failed.
func report(failed []failure) error {
	real := slices.DeleteFunc(slices.Clone(failed), underWay)
	if len(real) == 0 {
		return failed[0].err
	}
	failed = real
	var worded error
	var all, unprocessed, why []string
	for _, f := range failed {
		all = append(all, f.volume)
		var u *unprocessedError
		if errors.As(f.err, &u) {
			unprocessed = append(unprocessed, f.volume)
			why = append(why, f.err.Error())
		}
	}
	var mount *mountError
	switch {
	case len(unprocessed) > 0:
		worded = &eventError{fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=%v, unattached volumes=[], failed to process volumes=%v: %s",
			all, unprocessed, strings.Join(why, "; "))}
	case errors.As(failed[0].err, &mount):
		worded = failed[0].err
	default:
		worded = fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", failed[0].volume, failed[0].err)
	}
	for _, f := range failed {
		var retry *pod.RetryError
		if errors.As(f.err, &retry) {
			return &pod.RetryError{Err: worded, Ready: retry.Ready}
		}
	}
	return worded
}
