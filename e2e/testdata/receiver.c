// receiver blocks every signal, prints "ready", and then a line for each signal
// that it gets: its number, and the sender's pid. A queued signal is a line of
// its own. TERM ends it with code 0, after its line.
#include <errno.h>
#include <signal.h>
#include <stdio.h>

int main(void) {
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	for (;;) {
		siginfo_t info;
		int n = sigwaitinfo(&all, &info);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return 1;
		}
		printf("got %d from %d\n", n, (int)info.si_pid);
		if (n == SIGTERM)
			return 0;
	}
}
