//go:build cgo

package main

/*
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// pause_mode is the first process of a Pod's shared PID namespace: it reaps what the Pod's processes leave, and ends on SIGTERM or SIGINT.
// It runs before the Go runtime starts, so that such a Pod costs a few pages and not a Go heap. The mode is told by the name of the
// program: the runtime starts a copy of podinit as "/pause".
__attribute__((constructor(101))) static void pause_mode(void) {
	char arg0[16] = {0};
	FILE *f = fopen("/proc/self/cmdline", "re");
	if (f == NULL)
		return;
	size_t n = fread(arg0, 1, sizeof(arg0) - 1, f);
	fclose(f);
	if (n == 0 || strcmp(arg0, "/pause") != 0)
		return;
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (;;) {
		int sig;
		if (sigwait(&set, &sig) != 0)
			continue;
		if (sig == SIGTERM || sig == SIGINT)
			_exit(0);
		if (sig == SIGCHLD)
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
	}
}
*/
import "C"
