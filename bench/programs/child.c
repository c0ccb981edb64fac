// child REPORT [LIFE_MS]: the supervised process.
//
// Reports the time of its first instruction and that of each SIGUSR1. With
// LIFE_MS it reports its end after that time and exits with 1.
#include "bench.h"

// The time of the first instruction. The entry point is ours, because what libc
// does before main takes as long as an init takes to start a process.
struct timespec began = { 0, 0 };

#if defined(__x86_64__)
__asm__(".globl first\n"
	"first:\n"
	"	mov $228, %eax\n" // clock_gettime
	"	mov $1, %edi\n"   // CLOCK_MONOTONIC
	"	lea began(%rip), %rsi\n"
	"	syscall\n"
	"	jmp _start\n");
#elif defined(__aarch64__)
__asm__(".globl first\n"
	"first:\n"
	"	mov x8, #113\n" // clock_gettime
	"	mov x0, #1\n"   // CLOCK_MONOTONIC
	"	adrp x1, began\n"
	"	add x1, x1, :lo12:began\n"
	"	svc #0\n"
	"	mov x0, #0\n" // _start takes x0 for a function to call at exit
	"	b _start\n");
#else
#error "child.c needs the entry point of this architecture"
#endif

static int to;

static void handled(int sig)
{
	int64_t at = now();
	(void)sig;
	report(to, HANDLED, at, 0);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: child REPORT [LIFE_MS]\n");
		return 111;
	}
	to = open_report(argv[1]);
	struct sigaction action = { .sa_handler = handled, .sa_flags = SA_RESTART };
	if (sigaction(SIGUSR1, &action, NULL) == -1)
		die("handle SIGUSR1");
	const char *launched = getenv("LAUNCHED");
	report(to, BEGAN, nanoseconds(&began), launched ? atoll(launched) : 0);
	if (argc > 2) {
		pause_for(atoll(argv[2]) * 1000000);
		report(to, ENDS, now(), 0);
		_exit(1);
	}
	for (;;)
		pause();
}
