package reaper

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stray is a process that lost the one that started it: its parent is init, or
// what reaps in init's place.
type stray struct {
	pid   int
	start uint64
}

// letGo starts a script as such a process, in a group of its own as apps are. A
// test process that was made a subreaper would become its parent: it is none any
// more.
func letGo(t *testing.T, script string, env ...string) stray {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `setsid sh -c "$1" </dev/null >/dev/null 2>&1 & echo $!`, "sh", script)
	cmd.Env = append(withoutRunID(os.Environ()), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if (Leftover{PID: pid, start: start}).Alive() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	// It has left the shell's group when it has become what it is to be.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if st, err := readStat(pid); err != nil || st.pgrp == pid {
			return stray{pid, start}
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not lead a group", pid)
		}
	}
}

func (h *harness) adopt(s stray) *Process {
	h.t.Helper()
	p, err := h.Adopt(Adoption{PID: s.pid, StartTime: s.start})
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// exitOf waits until Gone has told of the end of an adopted process.
func (h *harness) exitOf(p *Process) Exit {
	h.t.Helper()
	for limit := time.After(60 * time.Second); ; {
		select {
		case <-h.Gone():
			h.collect()
			if e, ok := h.exits[p.PID()]; ok {
				return e
			}
		case <-limit:
			h.t.Fatal("waited in vain for the end of what was adopted")
		}
	}
}

// tellsExits says whether this kernel tells how a process ended that is not a
// child: PIDFD_INFO_EXIT, Linux 6.15.
func tellsExits(t *testing.T) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

func TestAdopt(t *testing.T) {
	for _, c := range []struct {
		name, script string
		send         syscall.Signal
		code         int
		signal       syscall.Signal
	}{
		{"exits", "trap 'exit 7' TERM; while :; do sleep 0.01; done", syscall.SIGTERM, 7, 0},
		{"exits with 0", "trap 'exit 0' USR2; while :; do sleep 0.01; done", syscall.SIGUSR2, 0, 0},
		{"is killed", "exec sleep 1000", syscall.SIGKILL, 0, syscall.SIGKILL},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := letGo(t, c.script)
			h := newHarness(t)
			p := h.adopt(s)
			if p.PID() != s.pid || p.PIDFD() < 0 || p.Halted() {
				t.Errorf("adopted %+v", p)
			}
			if n, ok := p.Memory(); !ok || n < 4096 || n > 1<<30 {
				t.Errorf("it uses %d bytes, %v", n, ok)
			}
			// The trap may not be set yet: a shell that has it sleeps.
			if strings.HasPrefix(c.script, "trap") {
				until(t, "the shell to wait", func() bool { return len(descendants(s.pid)) > 0 })
			}
			before := time.Now()
			if err := p.Signal(c.send); err != nil {
				t.Fatal(err)
			}
			e := h.exitOf(p)
			switch {
			case !tellsExits(t):
				if !e.Unknown || e.Code != 1 {
					t.Errorf("got %+v", e)
				}
			case e.Unknown || e.Code != c.code || e.Signal != c.signal:
				t.Errorf("got %+v", e)
			}
			if e.PID != s.pid || e.At.Before(before) {
				t.Errorf("got %+v", e)
			}
			for name, err := range map[string]error{"Signal": p.Signal(0), "SignalGroup": p.SignalGroup(0)} {
				if !errors.Is(err, ErrGone) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := h.Adopt(Adoption{PID: s.pid, StartTime: s.start}); !errors.Is(err, ErrGone) {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAdoptNobody(t *testing.T) {
	s := letGo(t, "exec sleep 1000")
	h := newHarness(t)
	dead := exec.Command("true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "a zombie", func() bool { st, err := readStat(dead.Process.Pid); return err == nil && st.dead() })
	zombie, err := readStat(dead.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]Adoption{
		"a pid that is used again": {PID: s.pid, StartTime: s.start + 1},
		"a pid that is not used":   {PID: 1<<22 - 1, StartTime: s.start},
		"a zombie":                 {PID: zombie.pid, StartTime: zombie.start},
	} {
		if _, err := h.Adopt(a); !errors.Is(err, ErrGone) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := h.Adopt(Adoption{PID: -1}); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("no pid: got %v", err)
	}
	_ = dead.Wait()
}

// Where descriptors have run out nothing is known of the process, least of all
// that it has ended.
func TestAdoptWithoutDescriptors(t *testing.T) {
	s := letGo(t, "exec sleep 1000")
	h := newHarness(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	lowest, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(lowest)
	for free := range 3 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest + free), Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		p, err := h.Adopt(Adoption{PID: s.pid, StartTime: s.start})
		_, errStart := StartTime(s.pid)
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		if err == nil {
			_ = p.Signal(syscall.SIGKILL)
			h.exitOf(p)
			return // there was room enough
		}
		if errors.Is(err, ErrGone) || errors.Is(errStart, ErrGone) {
			t.Errorf("with %d descriptors free: %v, %v", free, err, errStart)
		}
	}
}

func TestAdoptedGroup(t *testing.T) {
	s := letGo(t, "sleep 1000 & sleep 1000 & wait")
	h := newHarness(t)
	p := h.adopt(s)
	var below []int
	until(t, "its children", func() bool {
		below = below[:0]
		for pid, st := range descendants(s.pid) {
			if st.name == "sleep" {
				below = append(below, pid)
			}
		}
		return len(below) == 2
	})
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "a stop", p.Halted)
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.exitOf(p)
	for _, pid := range below {
		until(t, "the group's end", func() bool { st, err := readStat(pid); return err != nil || st.dead() })
	}
}

// What an adopted run leaves behind went to init, past its new supervisor. Its
// mark tells it from all others, of which the supervisor is one: it may have the
// mark itself, where it was started from within the app.
func TestAdoptedLeftovers(t *testing.T) {
	mark := RunID + "=" + random64() + random64()
	s := letGo(t, "setsid sleep 1000 & env -u "+RunID+" setsid sleep 2000 & wait", mark)
	h := newHarness(t)
	p := h.adopt(s)
	sleeps := map[string]int{}
	until(t, "its children", func() bool {
		for pid := range descendants(s.pid) {
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if time, ok := strings.CutPrefix(string(args), "sleep\x00"); ok {
				sleeps[strings.Trim(time, "\x00")] = pid
			}
		}
		return len(sleeps) == 2
	})
	defer unix.Kill(sleeps["2000"], unix.SIGKILL)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.exitOf(p)
	left := h.Leftovers(p)
	if len(left) != 1 || left[0].PID != sleeps["1000"] {
		t.Fatalf("left is %+v, not process %d alone", left, sleeps["1000"])
	}
	if err := left[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the end of what is left", func() bool { return len(h.Leftovers(p)) == 0 })
}

// TestMarkedSupervisor is a supervisor whose own environment has the mark.
func TestMarkedSupervisor(t *testing.T) {
	mark := RunID + "=" + random64() + random64()
	if os.Getenv("REAPER_TEST_ROLE") != "marked" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMarkedSupervisor$", "-test.count=1")
		cmd.Env = append(withoutRunID(os.Environ()), "REAPER_TEST_ROLE=marked", mark)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s%v", out, err)
		}
		return
	}
	h := newHarness(t)
	p := h.adopt(letGo(t, "exec sleep 1000", os.Getenv(RunID), RunID+"="+os.Getenv(RunID)))
	_ = p.Signal(syscall.SIGKILL)
	h.exitOf(p)
	if left := h.Leftovers(p); len(left) != 0 {
		t.Errorf("it would end %+v", left)
	}
}

func TestAdoptedWithoutMarkLeavesNothing(t *testing.T) {
	s := letGo(t, "exec sleep 1000")
	h := newHarness(t)
	p := h.adopt(s)
	_ = p.Signal(syscall.SIGKILL)
	h.exitOf(p)
	if left := h.Leftovers(p); left != nil {
		t.Errorf("left is %+v", left)
	}
}

// An adopted process's pid may already be that of a process of Start when its end
// becomes known: that one's exit must not get lost.
func TestAdoptedPIDUsedAgain(t *testing.T) {
	s := letGo(t, "exec sleep 1000")
	h := newHarness(t)
	p := h.adopt(s)
	own := h.start(sh("exec sleep 1000"))
	h.mu.Lock()
	delete(h.owned, own.pid)
	h.owned[s.pid] = own // as if it had got that pid
	h.mu.Unlock()
	_ = p.Signal(syscall.SIGKILL)
	h.exitOf(p)
	h.mu.Lock()
	if h.owned[s.pid] != own {
		t.Error("the new process of that pid was forgotten")
	}
	delete(h.owned, s.pid)
	h.owned[own.pid] = own
	h.mu.Unlock()
	_ = own.Signal(syscall.SIGKILL)
	h.exit(own)
}

// Adopting and ending leaves neither descriptors nor goroutines behind.
func TestAdoptLeaksNothing(t *testing.T) {
	count := func() (fds, routines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	h := newHarness(t)
	once := func() {
		s := letGo(t, "exec sleep 1000")
		p := h.adopt(s)
		if _, err := h.Adopt(Adoption{PID: s.pid, StartTime: s.start + 1}); !errors.Is(err, ErrGone) {
			t.Error(err)
		}
		_ = p.Signal(syscall.SIGKILL)
		h.exitOf(p)
	}
	once()
	fds, routines := count()
	for range 5 {
		once()
	}
	until(t, "the end of all goroutines", func() bool { f, r := count(); return f <= fds && r <= routines })
}

// Idle, an adoption sleeps in the kernel: its thread is not woken.
func TestAdoptIsIdle(t *testing.T) {
	s := letGo(t, "exec sleep 1000")
	h := newHarness(t)
	p := h.adopt(s)
	defer func() { _ = p.Signal(syscall.SIGKILL); h.exitOf(p) }()
	poller := ""
	until(t, "the thread that polls", func() bool {
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, task := range tasks {
			if call, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/syscall"); isPoll(string(call)) {
				poller = task.Name()
			}
		}
		return poller != ""
	})
	before := switches(t, poller)
	time.Sleep(300 * time.Millisecond)
	if after := switches(t, poller); after != before {
		t.Errorf("it was woken %d times", after-before)
	}
}

// isPoll tells whether a line of /proc/PID/syscall is of poll(2) or ppoll(2).
func isPoll(line string) bool {
	number, _, _ := strings.Cut(line, " ")
	return number == strconv.Itoa(unix.SYS_PPOLL) || runtime.GOARCH == "amd64" && number == "7"
}

func switches(t *testing.T, task string) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/task/" + task + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "voluntary_ctxt_switches:"); ok {
			n, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return n
}

// What a killed reaper has started is found by its mark, and what that has started
// is not taken for it.
func TestSurvivor(t *testing.T) {
	h := newHarness(t)
	p := h.start(Command{Argv: []string{"sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"}, OwnGroup: true})
	h.until("its sleeps to begin", func() bool { return len(descendants(p.PID())) == 2 })
	got, ok := Survivor(h.Mark(), 0)
	if start, _ := StartTime(p.PID()); !ok || got.PID != p.PID() || got.StartTime != start {
		t.Errorf("got %+v, %v; want process %d", got, ok, p.PID())
	}
	if got, ok := Survivor(h.Mark(), got.StartTime+1); ok {
		t.Errorf("of a later time: %+v", got)
	}
	if got, ok := Survivor(random64(), 0); ok {
		t.Errorf("of another mark: %+v", got)
	}
	if got, ok := Survivor("", 0); ok {
		t.Errorf("of no mark: %+v", got)
	}
	h.until("all to end", func() bool { return killAll(h) })
}
