package cri

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stopSignal parses an image's or a Pod's stop signal, "SIGQUIT", "QUIT" or "3"; what makes no sense means SIGTERM.
func stopSignal(name string) unix.Signal {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n)
	}
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "+")); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n)
		}
		if rest == "" {
			return unix.Signal(34)
		}
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "-")); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(64 - n)
		}
		if rest == "" {
			return unix.Signal(64)
		}
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// stopSignalName spells the CRI's signal, SIGNAL_SIGRTMINPLUS3 and the like, as images do; "" for the default.
func stopSignalName(sig runtimeapi.Signal) string {
	if sig == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	name := strings.TrimPrefix(sig.String(), "SIGNAL_")
	return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
}

// criSignal is the CRI's number of a signal.
func criSignal(sig unix.Signal) runtimeapi.Signal {
	name := unix.SignalName(sig)
	switch {
	case sig == 34:
		name = "SIGRTMIN"
	case sig > 34 && sig < 50:
		name = fmt.Sprintf("SIGRTMINPLUS%d", sig-34)
	case sig >= 50 && sig < 64:
		name = fmt.Sprintf("SIGRTMAXMINUS%d", 64-sig)
	case sig == 64:
		name = "SIGRTMAX"
	}
	if number, ok := runtimeapi.Signal_value["SIGNAL_"+name]; ok {
		return runtimeapi.Signal(number)
	}
	return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
}
