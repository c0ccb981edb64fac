// raw COMMAND [ARG...]: the limit, a supervisor that does nothing but fork, exec
// and wait. It starts its child again however it ends, and reaps orphans.
#include "bench.h"

static pid_t start(char **command)
{
	pid_t pid = fork();
	if (pid == -1)
		die("fork");
	if (pid == 0) {
		execv(command[0], command);
		die(command[0]);
	}
	return pid;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: raw COMMAND [ARG...]\n");
		return 111;
	}
	pid_t child = start(argv + 1);
	for (;;)
		if (wait(NULL) == child)
			child = start(argv + 1);
}
