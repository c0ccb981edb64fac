// What the soak runs, below evermore and beside it.
//
//	app run FOLDER KIND     the app that evermore keeps alive
//	app send PID TIMES PAUSE SIGNAL...
//	                        sends each signal so many times, with a pause in
//	                        microseconds after each round
//	app orphans TIMES       makes so many orphans
//
// An app appends its start to FOLDER/starts and, when its signals are counted,
// its pid to FOLDER/ready. What kind of app the next one is says FOLDER/kind:
//
//	counts   counts every signal in FOLDER/received, which outlives it
//	plain    has the default action for every signal
//	else     the path of a script for node
//
// FOLDER/order tells it to leave processes behind and to end: "LEFT WHAT CODE".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
	perror(what);
	exit(99);
}

// One write, so that what several write is not mixed.
static void append(const char *file, const char *line) {
	int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line))
		fail(file);
	close(fd);
}

static int contents(const char *file, char *text, size_t size) {
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return n > 0;
}

// Leaves processes behind: some in the app's group, some that escaped from it,
// some that do not end by SIGTERM.
static void leave(int left, int stubborn) {
	for (int i = 0; i < left; i++) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid > 0)
			continue;
		sigset_t none;
		sigemptyset(&none);
		if (stubborn)
			signal(SIGTERM, SIG_IGN);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (i % 2)
			setsid();
		for (;;)
			pause();
	}
}

static int run(const char *node) {
	char text[256], line[64];
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	// What the last one was told is not for this one.
	unlink("order");
	snprintf(line, sizeof line, "%d\n", getpid());
	append("starts", line);
	if (!contents("kind", text, sizeof text))
		fail("kind");

	sigset_t none;
	sigemptyset(&none);
	if (!strcmp(text, "plain")) {
		sigprocmask(SIG_SETMASK, &none, NULL);
		append("ready", line);
		for (;;)
			pause();
	}
	if (strcmp(text, "counts")) {
		sigprocmask(SIG_SETMASK, &none, NULL);
		execlp(node, node, text, NULL);
		fail(node);
	}

	int fd = open("received", O_RDWR | O_CLOEXEC);
	volatile uint64_t *received = mmap(NULL, 65 * sizeof *received, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || received == MAP_FAILED)
		fail("received");
	append("ready", line);
	struct timespec last = {0};
	for (unsigned long lines = 0;;) {
		const struct timespec pause = {0, 2 * 1000 * 1000};
		int s = sigtimedwait(&all, NULL, &pause);
		if (s == SIGTERM)
			return 43;
		if (s > 0)
			received[s]++;
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if ((now.tv_sec - last.tv_sec) * 1000000000L + now.tv_nsec - last.tv_nsec < pause.tv_nsec)
			continue;
		last = now;
		int n = snprintf(line, sizeof line, "app %d line %lu\n", getpid(), lines++);
		if (write(STDOUT_FILENO, line, n) != n)
			fail("write");
		int left, code;
		char what[16];
		if (!contents("order", text, sizeof text) || sscanf(text, "%d %15s %d", &left, what, &code) != 3)
			continue;
		leave(left, !strcmp(what, "stubborn"));
		if (!strcmp(what, "abort"))
			abort();
		return code;
	}
}

static int send(pid_t pid, int times, int pause, char **signals) {
	for (int i = 0; i < times; i++) {
		for (char **s = signals; *s; s++)
			if (kill(pid, atoi(*s)))
				fail("kill");
		if (pause)
			usleep(pause);
	}
	return 0;
}

static int orphans(int times) {
	for (int i = 0; i < times; i++) {
		pid_t parent = fork();
		if (parent < 0)
			fail("fork");
		if (parent == 0) {
			pid_t orphan = fork();
			if (orphan == 0 && i % 4 == 0)
				usleep(1000); // its parent is gone by then
			_exit(orphan < 0);
		}
		int status;
		if (waitpid(parent, &status, 0) != parent || status)
			fail("making an orphan");
	}
	return 0;
}

int main(int argc, char **argv) {
	if (argc == 4 && !strcmp(argv[1], "run")) {
		if (chdir(argv[2]))
			fail(argv[2]);
		return run(argv[3]);
	}
	if (argc > 5 && !strcmp(argv[1], "send"))
		return send(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), argv + 5);
	if (argc == 3 && !strcmp(argv[1], "orphans"))
		return orphans(atoi(argv[2]));
	fprintf(stderr, "usage: see the source\n");
	return 98;
}
