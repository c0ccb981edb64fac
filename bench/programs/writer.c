// writer REPORT BYTES: reports, then writes BYTES to stdout in lines.
#include "bench.h"

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: writer REPORT BYTES\n");
		return 111;
	}
	// 64 KiB is what a pipe holds and what node writes at a time.
	static char block[65536];
	memset(block, 'x', sizeof block);
	for (size_t i = 127; i < sizeof block; i += 128)
		block[i] = '\n';
	int to = open_report(argv[1]);
	report(to, WRITES, now(), 0);
	for (long long left = atoll(argv[2]); left > 0;) {
		ssize_t n = write(STDOUT_FILENO, block, left < (long long)sizeof block ? (size_t)left : sizeof block);
		if (n <= 0)
			die("write");
		left -= n;
	}
	for (;;)
		pause();
}
