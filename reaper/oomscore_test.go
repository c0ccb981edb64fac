package reaper

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func score(t *testing.T, pid int) int {
	t.Helper()
	n, err := readScore(strconv.Itoa(pid))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRaiseOOMScore(t *testing.T) {
	h := newHarness(t)
	own := score(t, os.Getpid())
	p := h.start(Command{Argv: []string{"sleep", "1000"}})
	for _, by := range []int{7, 100} { // the second finds what it did not put there
		if err := p.RaiseOOMScore(by); err != nil {
			t.Fatal(err)
		}
		if got, want := score(t, p.PID()), min(own+7, maxOOMScore); got != want {
			t.Errorf("raised by %d: %d, want %d", by, got, want)
		}
	}
	if score(t, os.Getpid()) != own {
		t.Error("that of the caller has changed")
	}
	q := h.start(Command{Argv: []string{"sleep", "1000"}})
	if err := q.RaiseOOMScore(2000); err != nil || score(t, q.PID()) != maxOOMScore {
		t.Errorf("raised above all bounds: %d, %v", score(t, q.PID()), err)
	}
	for _, p := range []*Process{p, q} {
		_ = p.Signal(syscall.SIGKILL)
		h.exit(p)
		if err := p.RaiseOOMScore(1); err == nil {
			t.Error("that of a process that is gone was raised")
		}
	}
}

// The file belongs to the process's user: a root without CAP_DAC_OVERRIDE may not
// write it.
func TestRaiseOOMScoreOfAnotherUser(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	user := &syscall.Credential{Uid: 65534, Gid: 65534}
	p := h.start(Command{Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/bin:/usr/bin"}, User: user, Dir: "/"})
	own := score(t, os.Getpid())
	withoutCaps(t, []int{unix.CAP_DAC_OVERRIDE}, func() {
		if err := (&Process{pid: p.PID()}).RaiseOOMScore(7); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("the control: %v", err)
		}
		if err := p.RaiseOOMScore(7); err != nil {
			t.Error(err)
		}
	})
	if got, want := score(t, p.PID()), min(own+7, maxOOMScore); got != want {
		t.Errorf("%d, want %d", got, want)
	}
	_ = p.Signal(syscall.SIGKILL)
	h.exit(p)
}

func TestPeakMemory(t *testing.T) {
	h := newHarness(t)
	little := h.exit(h.start(sh("exit 0"))).PeakMemory
	much := h.exit(h.start(sh("x=$(head -c 67108864 /dev/zero | tr '\\0' x); exit 0"))).PeakMemory
	if little <= 0 || much < little+48<<20 {
		t.Errorf("at their peak the processes had %d and %d bytes", little, much)
	}
}
