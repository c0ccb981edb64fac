// lines REPORT COUNT: reports, then writes COUNT lines of 100 bytes to stdout and
// as many to stderr, in turn, each by a write of its own, as a logger does.
#include "bench.h"

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: lines REPORT COUNT\n");
		return 111;
	}
	char line[101];
	int to = open_report(argv[1]);
	report(to, WRITES, now(), 0);
	for (long i = 0, count = atol(argv[2]); i < count; i++) {
		snprintf(line, sizeof line, "%099ld\n", i);
		for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
			if (write(fd, line, 100) != 100)
				die("write");
	}
	for (;;)
		pause();
}
