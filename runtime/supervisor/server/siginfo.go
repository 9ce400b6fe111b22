//go:build cgo

package server

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childSiginfo is siginfo_t as the kernel fills it for SIGCHLD on 64-bit machines.
type childSiginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
}

func siginfoStatus(info *unix.Siginfo) waitStatus {
	child := (*childSiginfo)(unsafe.Pointer(info))
	return waitStatus{code: int(child.code), status: int(child.status)}
}
