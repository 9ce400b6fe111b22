package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/mvcc"
)

// The messages are those of the API.
const (
	listTooOld     = "The resourceVersion for the provided list is too old."
	continueTooOld = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter."
	continueInconsistent = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

// tooLargeRetrySeconds is when a client that asked for a revision yet to come should ask again.
const tooLargeRetrySeconds = 1

// listError says to a client why a list cannot be had at revision rev. continueKey is where the list should have gone
// on, empty for its beginning.
func (r *Resource) listError(err error, rev int64, continueKey, keyPrefix string) error {
	switch {
	case errors.Is(err, mvcc.ErrFuture):
		return storage.NewTooLargeResourceVersionError(uint64(rev), uint64(r.store.Revision()), tooLargeRetrySeconds)
	case !errors.Is(err, mvcc.ErrCompacted):
		return err
	case continueKey == "":
		return apierrors.NewResourceExpired(listTooOld)
	}
	// Revision -1 in the token stands for the latest.
	token, err := storage.EncodeContinue(continueKey, keyPrefix, -1)
	if err != nil {
		return apierrors.NewResourceExpired(continueTooOld)
	}
	expired := apierrors.NewResourceExpired(continueInconsistent)
	expired.ErrStatus.ListMeta.Continue = token
	return expired
}

// watchTooOld says to a client that events after rev are not there any more.
func watchTooOld(rev, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, oldest))
}

// watchAhead is what a client gets that has seen a revision which this store has not had: it was put back from a backup. The client
// lists anew. Until the store has come that far, it would otherwise hear nothing, and what it has would be another history's.
func watchAhead(rev, now int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("resource version %d is of another history: this one is at %d", rev, now))
}

// timedOut is what a writer gets that does not wait any longer.
func timedOut(ctx context.Context) error {
	return apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %v", ctx.Err()), 0)
}

// checkSize refuses objects that are too large, in the words that etcd has for it.
func (r *Resource) checkSize(key string, data []byte) error {
	if limit := r.store.cfg.MaxObjectBytes; len(key)+len(data) > limit {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"etcdserver: request is too large: the object takes %d bytes in the store, limit is %d", len(key)+len(data), limit))
	}
	return nil
}

// corruptError is why an object that is in the store cannot be read.
type corruptError struct {
	what     string
	revision int64
	err      error
}

func (e *corruptError) Error() string {
	return fmt.Sprintf("%s revision=%d: %v", e.what, e.revision, e.err)
}

func (e *corruptError) Unwrap() error { return e.err }

func isCorrupt(err error) bool {
	var corrupt *corruptError
	return errors.As(err, &corrupt)
}

// maxCorrupt is how many objects that cannot be read a list names.
const maxCorrupt = 100

var errTooManyCorrupt = errors.New("too many errors, the list is truncated")

// listErrors collects why objects are missing from a list. Unless corruption is tolerated the first ends the list.
type listErrors struct {
	tolerant bool
	corrupt  []error
	fatal    error
}

// add returns whether the list should end here.
func (l *listErrors) add(key string, err error) bool {
	if !l.tolerant || !isCorrupt(err) {
		l.fatal = err
		return true
	}
	l.corrupt = append(l.corrupt, storage.NewCorruptObjError(key, err))
	if len(l.corrupt) >= maxCorrupt {
		l.fatal = errTooManyCorrupt
		return true
	}
	return false
}

// err returns the error of the whole list.
func (l *listErrors) err(resource schema.GroupResource) error {
	if len(l.corrupt) == 0 {
		return l.fatal
	}
	var causes []metav1.StatusCause
	for _, err := range l.corrupt {
		var object *storage.StorageError
		errors.As(err, &object)
		causes = append(causes, metav1.StatusCause{
			Type: metav1.CauseTypeUnexpectedServerResponse, Field: object.Key, Message: err.Error(),
		})
	}
	switch {
	case errors.Is(l.fatal, errTooManyCorrupt):
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: l.fatal.Error()})
	case l.fatal != nil:
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Message: l.fatal.Error()})
	}
	var message strings.Builder
	fmt.Fprintf(&message, "failed to read one or more %s from the storage: %v", resource, l.corrupt[0])
	if n := len(l.corrupt); n > 1 {
		fmt.Fprintf(&message, " (and %d more)", n-1)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Message: message.String(),
		Details: &metav1.StatusDetails{Group: resource.Group, Kind: resource.Resource, Name: "list", Causes: causes},
	}}
}
