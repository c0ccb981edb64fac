// host REPORT: PID 1 of a namespace in which commands leave daemons behind.
//
// Runs one command line after another, as its stdin has them: NUL-terminated
// arguments, an empty one at the end of each. Reports when each had returned,
// and since when it ran. Reaps whatever is left to it.
#include "bench.h"

enum { MAX_ARGS = 64 };

static volatile sig_atomic_t status;
static volatile pid_t running;
static volatile int64_t returned;

static void reap(int sig)
{
	int before = errno, how;
	pid_t pid;
	(void)sig;
	while ((pid = waitpid(-1, &how, WNOHANG)) > 0)
		if (pid == running) {
			returned = now();
			status = how;
			running = 0;
		}
	errno = before;
}

// SIGCHLD is blocked but in sigsuspend, so that no end comes before the pid is
// known.
static void run(char **argv, int to, const sigset_t *usual)
{
	int64_t since = now();
	running = fork();
	if (running == -1)
		die("fork");
	if (running == 0) {
		sigprocmask(SIG_SETMASK, usual, NULL);
		int null = open("/dev/null", O_RDONLY);
		if (null < 0 || dup2(null, STDIN_FILENO) < 0)
			die("open /dev/null");
		close(null);
		execvp(argv[0], argv);
		die(argv[0]);
	}
	while (running)
		sigsuspend(usual);
	if (status == 0)
		report(to, RETURNED, returned, since);
	else
		report(to, FAILED, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), since);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: host REPORT\n");
		return 111;
	}
	int to = open_report(argv[1]);
	struct sigaction action = { .sa_handler = reap, .sa_flags = SA_RESTART };
	sigset_t child, usual;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (sigaction(SIGCHLD, &action, NULL) == -1)
		die("handle SIGCHLD");
	char *args[MAX_ARGS] = { NULL };
	size_t rooms[MAX_ARGS] = { 0 };
	int n = 0;
	// Between the commands what ends is reaped at once, too: a zombie would look
	// alive to who waits for its end.
	while (n < MAX_ARGS && getdelim(&args[n], &rooms[n], '\0', stdin) != -1) {
		if (args[n][0] != '\0') {
			n++;
			continue;
		}
		char *end = args[n];
		args[n] = NULL;
		sigprocmask(SIG_BLOCK, &child, &usual);
		run(args, to, &usual);
		sigprocmask(SIG_SETMASK, &usual, NULL);
		args[n] = end;
		n = 0;
	}
	return 0;
}
