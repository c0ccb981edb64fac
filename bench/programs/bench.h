// What the measured programs share: a clock and a report.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The kinds of a record; report.go has the same.
enum { BEGAN = 1, ENDS, HANDLED, REAPED, WRITES, RETURNED, LISTENS, FAILED };

// One record: times are nanoseconds of CLOCK_MONOTONIC, which all processes of
// a machine share. It is shorter than PIPE_BUF, so that writers never mix.
struct record {
	int64_t kind;
	int64_t at;
	int64_t since;
};

static inline int64_t nanoseconds(const struct timespec *t)
{
	return t->tv_sec * 1000000000LL + t->tv_nsec;
}

static inline int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return nanoseconds(&t);
}

static inline void pause_for(int64_t ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };
	while (nanosleep(&t, &t) == -1 && errno == EINTR)
		;
}

static inline void die(const char *what)
{
	fprintf(stderr, "cannot %s: %s\n", what, strerror(errno));
	_exit(111);
}

static inline int open_report(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		die("open the report");
	return fd;
}

static inline void report(int fd, int64_t kind, int64_t at, int64_t since)
{
	struct record r = { kind, at, since };
	if (write(fd, &r, sizeof r) != sizeof r)
		die("write the report");
}
