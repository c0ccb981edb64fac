package signals

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const runsOnLinux = runtime.GOOS == "linux"

// roles are what this binary does instead of testing, by the value of roleVar:
// the processes of the tests.
var roles = map[string]func() error{}

const roleVar = "SIGNALS_TEST_ROLE"

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVar); name != "" {
		if err := roles[name](); err != nil {
			os.Stderr.WriteString(name + ": " + err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// missing skips a test that cannot run here, but not silently in CI.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// next gives the next value of a channel. Its time-out only turns a hang into a
// failure.
func next[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(5 * time.Minute):
		t.Fatalf("%s: nothing came", what)
		panic("not reached")
	}
}

// catch begins to catch, until the test ends.
func catch(t testing.TB, o Options) *Catcher {
	t.Helper()
	c, err := Catch(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestCatchRefuses(t *testing.T) {
	for _, tt := range []struct {
		from syscall.Signal
		to   uint8
		want string
	}{
		{unix.SIGSEGV, 15, "cannot forward SIGSEGV: it is about a fault of the process that receives it"},
		{unix.SIGCHLD, 17, "cannot forward SIGCHLD: it is about evermore's own children"},
		{0, 15, "cannot forward 0: there is no such signal"},
		{34, 34, "cannot forward SIGRTMIN: C libraries use it for their threads"},
		{unix.SIGTERM, 65, "cannot forward SIGTERM as signal 65: signals are 1 to 64"},
	} {
		var o Options
		o.Direct[tt.from] = tt.to
		if _, err := Catch(o); err == nil || err.Error() != tt.want {
			t.Errorf("Catch with %d forwarded as %d: %v, want %s", tt.from, tt.to, err, tt.want)
		}
	}
}

func TestForwarding(t *testing.T) {
	rewrite := map[syscall.Signal]syscall.Signal{unix.SIGHUP: unix.SIGUSR2, unix.SIGUSR1: 0, unix.SIGTERM: unix.SIGINT}
	o := Forwarding(Stop, rewrite)
	if err := o.validate(); err != nil {
		t.Error(err)
	}
	for _, s := range All() {
		want := uint8(s)
		switch {
		case s == unix.SIGHUP:
			want = uint8(unix.SIGUSR2)
		case s == unix.SIGUSR1, s == unix.SIGTERM, s == unix.SIGINT, s == unix.SIGQUIT, !Forwardable(s):
			want = 0
		}
		if o.Direct[s] != want {
			t.Errorf("%s is sent as %d, want %d", Name(s), o.Direct[s], want)
		}
	}
}

func TestSignalsOfThisProcess(t *testing.T) {
	c := catch(t, Options{})
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGWINCH} {
		if err := unix.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		if r := next(t, c.Signals(), Name(s)); r.Signal != s || r.Forwarded || r.FromKernel() {
			t.Errorf("sent %s, received %+v", Name(s), r)
		}
	}
	if err := unix.Kill(os.Getpid(), unix.SIGCHLD); err != nil {
		t.Fatal(err)
	}
	next(t, c.Children(), "SIGCHLD")
	if err := c.SetTarget(-1); err != nil {
		t.Error(err)
	}
	if c.JustForwarded(unix.SIGTERM) || c.Lost() != 0 {
		t.Errorf("JustForwarded = %t, Lost = %d, want false, 0", c.JustForwarded(unix.SIGTERM), c.Lost())
	}
	if c2, err := Catch(Options{}); err == nil {
		c2.Close()
		t.Error("a second Catcher was given")
	}
}
