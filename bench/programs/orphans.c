// orphans REPORT N: makes N orphans and reports when the last one was reaped.
//
// Runs in a pid namespace where nothing lives but PID 1 and itself: then
// kill(-1, 0) finds nobody as soon as no zombie is left.
#define _GNU_SOURCE
#include <sched.h>

#include "bench.h"

// How many processes lose their parent, and die, at a time.
enum { LITTER = 20, STACK = 16384 };

// Waits for the end of the parent, which then alone holds the other end of the
// pipe.
static int young(void *pipe)
{
	int *alive = pipe;
	char none;
	close(alive[1]);
	_exit(read(alive[0], &none, 1) != 0);
}

// A full table of processes is no failure: the supervisor is behind. The young
// share memory with their parent, since copying it would take longer than all
// that is measured.
static void bear(int *alive)
{
	static char stacks[LITTER][STACK] __attribute__((aligned(16)));
	static int next;
	while (clone(young, stacks[next] + STACK, CLONE_VM | SIGCHLD, alive) == -1) {
		if (errno != EAGAIN)
			die("clone");
		pause_for(100000);
	}
	next++;
}

static void litter(int n)
{
	pid_t parent;
	while ((parent = fork()) == -1 && errno == EAGAIN)
		pause_for(100000);
	if (parent == -1)
		die("fork");
	if (parent == 0) {
		int alive[2];
		if (pipe2(alive, O_CLOEXEC) == -1)
			die("make a pipe");
		while (n-- > 0)
			bear(alive);
		_exit(0);
	}
	if (waitpid(parent, NULL, 0) == -1)
		die("wait");
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: orphans REPORT N\n");
		return 111;
	}
	int to = open_report(argv[1]);
	int64_t began = now();
	for (int left = atoi(argv[2]); left > 0; left -= LITTER)
		litter(left < LITTER ? left : LITTER);
	while (kill(-1, 0) == 0)
		pause_for(50000);
	report(to, REAPED, now(), began);
	for (;;)
		pause();
}
