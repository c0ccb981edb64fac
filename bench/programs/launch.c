// launch COMMAND [ARG...]: becomes COMMAND at a known time.
//
// As PID 1 of a new pid namespace it gives that namespace its own /proc, as a
// container has. The command inherits at most two CPUs and LAUNCHED, the time
// of its exec.
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mount.h>

#include "bench.h"

// Two, so that a supervisor and its child can run at once and a big machine
// gives the same figures as a small one.
static void keep_two_cpus(void)
{
	cpu_set_t all, two;
	if (sched_getaffinity(0, sizeof all, &all) == -1)
		die("read the affinity");
	CPU_ZERO(&two);
	for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&two) < 2; cpu++)
		if (CPU_ISSET(cpu, &all))
			CPU_SET(cpu, &two);
	if (sched_setaffinity(0, sizeof two, &two) == -1)
		die("set the affinity");
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: launch COMMAND [ARG...]\n");
		return 111;
	}
	if (getpid() == 1) {
		if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
			die("make the mounts private");
		if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == -1)
			die("mount /proc");
	}
	keep_two_cpus();
	char launched[32];
	snprintf(launched, sizeof launched, "%lld", (long long)now());
	setenv("LAUNCHED", launched, 1);
	execvp(argv[1], argv + 1);
	die(argv[1]);
}
