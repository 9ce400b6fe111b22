//go:build cgo

package main

/*
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

// kernel_action is struct sigaction as the kernel has it; the C library's call refuses the signals that it uses itself.
struct kernel_action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

// heed_signals makes the process heed every signal that whoever started it ignored: what is ignored here would be ignored in every
// container, which inherits it. (make ignores 32 and 33, a shell's background job 2 and 3.) It runs before the Go runtime starts,
// which takes note of what is ignored.
__attribute__((constructor(102))) static void heed_signals(void) {
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_action now, heed = {0};
		if (syscall(SYS_rt_sigaction, sig, NULL, &now, 8) == 0 && now.handler == SIG_IGN)
			syscall(SYS_rt_sigaction, sig, &heed, NULL, 8);
	}
}
*/
import "C"
