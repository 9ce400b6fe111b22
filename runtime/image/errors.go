package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// Kind says what a caller can do about an error of this package.
type Kind int

const (
	// Unknown is everything else: look at the text.
	Unknown Kind = iota
	// InvalidReference: the name is not one of an image; no retry will help.
	InvalidReference
	// NotFound: the registry, or this node, has no such image.
	NotFound
	// Unauthorized: the registry wants other credentials, or hides that there is no such image.
	Unauthorized
	// RegistryUnavailable: nobody answers, or the registry is broken; it also satisfies
	// errors.Is(err, crierrors.ErrRegistryUnavailable).
	RegistryUnavailable
	// Refused: the image is broken or breaks a limit; no retry will help.
	Refused
	// NoSpace: the disk is full.
	NoSpace
	// Canceled: the caller gave up.
	Canceled
)

// Error is what the calls of Store return where the caller may decide on the kind. It travels over gRPC as a status.
type Error struct {
	Kind Kind
	text string
	err  error
}

func (e *Error) Error() string { return e.text }

func (e *Error) Unwrap() error { return e.err }

// Is lets callers ask for the sentinels of the CRI and of containerd.
func (e *Error) Is(target error) bool {
	switch target {
	case crierrors.ErrRegistryUnavailable:
		return e.Kind == RegistryUnavailable
	case errdefs.ErrInvalidArgument:
		return e.Kind == InvalidReference
	case errdefs.ErrNotFound:
		return e.Kind == NotFound
	}
	return false
}

// GRPCStatus gives the error the code that a CRI client looks at.
func (e *Error) GRPCStatus() *status.Status {
	code := codes.Unknown
	switch e.Kind {
	case InvalidReference:
		code = codes.InvalidArgument
	case NotFound:
		code = codes.NotFound
	case Unauthorized:
		code = codes.PermissionDenied
	case RegistryUnavailable:
		code = codes.Unavailable
	case Refused:
		code = codes.FailedPrecondition
	case NoSpace:
		code = codes.ResourceExhausted
	case Canceled:
		code = codes.Canceled
	}
	return status.New(code, e.text)
}

// pullError wraps what the registry libraries return. The texts are those that users know from containerd.
func pullError(ref string, err error) error {
	kind := kindOf(err)
	text := fmt.Sprintf("failed to pull and unpack image %q: %v", ref, err)
	if kind == NoSpace {
		text = fmt.Sprintf("failed to pull and unpack image %q: no space left on the image disk: %v", ref, err)
	}
	return &Error{Kind: kind, text: text, err: err}
}

func kindOf(err error) Kind {
	var ours *Error
	var unexpected remoteerrors.ErrUnexpectedStatus
	var coded docker.Errors
	var netErr net.Error
	switch {
	case errors.As(err, &ours):
		return ours.Kind
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return Unauthorized
	case errors.As(err, &unexpected):
		return kindOfStatus(unexpected.StatusCode)
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.As(err, &coded):
		return kindOfCodes(coded)
	case errdefs.IsNotFound(err):
		return NotFound
	case errors.As(err, &netErr), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, context.DeadlineExceeded):
		return RegistryUnavailable
	}
	return Unknown
}

func kindOfStatus(code int) Kind {
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return Unauthorized
	case code == http.StatusNotFound:
		return NotFound
	case code == http.StatusTooManyRequests, code >= 500:
		return RegistryUnavailable
	}
	return Unknown
}

// kindOfCodes reads the error list that a registry sends as a body.
func kindOfCodes(list docker.Errors) Kind {
	for _, err := range list {
		var coder docker.ErrorCoder
		if !errors.As(err, &coder) {
			continue
		}
		switch coder.ErrorCode() {
		case docker.ErrorCodeUnauthorized, docker.ErrorCodeDenied:
			return Unauthorized
		case docker.ErrorCodeUnavailable, docker.ErrorCodeTooManyRequests:
			return RegistryUnavailable
		}
		if strings.HasSuffix(coder.ErrorCode().String(), "_UNKNOWN") {
			return NotFound
		}
	}
	return Unknown
}
