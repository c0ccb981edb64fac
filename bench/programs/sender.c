// sender REPORT PID N: how long SIGUSR1 takes from here to the child's handler.
//
// Waits for the child's first report, then sends N signals to PID, the next one
// after the report of the last, and prints the nanoseconds of each.
#include "bench.h"

static struct record next(int fd)
{
	struct record r;
	if (read(fd, &r, sizeof r) != sizeof r)
		die("read the report");
	return r;
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: sender REPORT PID N\n");
		return 111;
	}
	int from = open(argv[1], O_RDWR);
	if (from < 0)
		die("open the report");
	while (next(from).kind != BEGAN)
		;
	pid_t pid = atoi(argv[2]);
	for (int i = 0; i < atoi(argv[3]); i++) {
		// A stop comes out of the blue: let both processes, and their CPUs, go to
		// sleep again.
		pause_for(5000000);
		int64_t sent = now();
		if (kill(pid, SIGUSR1) == -1)
			die("send SIGUSR1");
		struct record r;
		do
			r = next(from);
		while (r.kind != HANDLED);
		printf("%lld\n", (long long)(r.at - sent));
	}
	return 0;
}
