package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain also plays the part of a supervisor that is killed, for
// TestDieWithParent.
func TestMain(m *testing.M) {
	if os.Getenv("REAPER_TEST_ROLE") == "supervisor" {
		r, err := New()
		if err != nil {
			panic(err)
		}
		p, err := r.Start(Command{Argv: []string{"sleep", "1000"}, Env: os.Environ(), DieWithParent: true})
		if err != nil {
			panic(err)
		}
		fmt.Println(p.PID())
		select {}
	}
	os.Exit(m.Run())
}

// harness drives a reaper by SIGCHLD, as the loop does.
type harness struct {
	*Reaper
	t       *testing.T
	chld    chan os.Signal
	exits   map[int]Exit
	orphans int
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{Reaper: r, t: t, chld: make(chan os.Signal, 1), exits: make(map[int]Exit)}
	signal.Notify(h.chld, unix.SIGCHLD)
	t.Cleanup(func() {
		signal.Stop(h.chld)
		h.collect()
		if h.HasChildren() {
			t.Error("the test leaves children")
		}
	})
	return h
}

func (h *harness) collect() {
	for more := true; more; {
		r := h.Reap()
		for _, e := range r.Exits {
			if _, twice := h.exits[e.PID]; twice {
				h.t.Errorf("the exit of %d came twice", e.PID)
			}
			h.exits[e.PID] = e
		}
		h.orphans += len(r.Orphans)
		more = r.More
	}
}

// until reaps at each SIGCHLD until done.
func (h *harness) until(what string, done func() bool) {
	h.t.Helper()
	limit := time.After(60 * time.Second)
	for {
		h.collect()
		if done() {
			return
		}
		select {
		case <-h.chld:
		case <-time.After(20 * time.Millisecond): // what is awaited need not be a death
		case <-limit:
			h.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (h *harness) start(c Command) *Process {
	h.t.Helper()
	if c.Env == nil {
		c.Env = os.Environ()
	}
	if c.Files == nil {
		c.Files = []uintptr{0, 1, 2}
	}
	p, err := h.Start(c)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *harness) exit(p *Process) Exit {
	h.t.Helper()
	h.until("an exit", func() bool { _, ok := h.exits[p.PID()]; return ok })
	return h.exits[p.PID()]
}

func sh(script string) Command { return Command{Argv: []string{"/bin/sh", "-c", script}} }

func TestExitStatus(t *testing.T) {
	h := newHarness(t)
	for _, c := range []struct {
		script string
		code   int
		signal syscall.Signal
		status int
	}{
		{"exit 0", 0, 0, 0},
		{"exit 8", 8, 0, 8},
		{"exit 255", 255, 0, 255},
		{"kill -KILL $$", 0, syscall.SIGKILL, 137},
		{"kill -TERM $$", 0, syscall.SIGTERM, 143},
		{"kill -64 $$", 0, 64, 192},
	} {
		e := h.exit(h.start(sh(c.script)))
		if e.Signal != c.signal || e.Signal == 0 && e.Code != c.code || e.Status() != c.status {
			t.Errorf("%s: got %+v, status %d", c.script, e, e.Status())
		}
	}
}

// Every exit is seen, once, with its own code, whatever dies beside it.
func TestNoExitIsLost(t *testing.T) {
	children, makers, orphansEach := 10_000, 10, 2000
	if testing.Short() {
		children, makers, orphansEach = 500, 2, 200
	}
	h := newHarness(t)
	for range makers {
		// Each ( : & ) leaves a process whose parent is gone.
		h.start(sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done", orphansEach)))
	}
	codes := make(map[int]int)
	for i := range children {
		p := h.start(sh("exit " + strconv.Itoa(i%256)))
		codes[p.PID()] = i % 256
		h.collect()
		for pid, e := range h.exits { // pids are used again
			if want, ok := codes[pid]; ok && e.Code != want {
				t.Fatalf("child %d exited with %d, got %d", pid, want, e.Code)
			} else if ok {
				delete(codes, pid)
				delete(h.exits, pid)
			}
		}
	}
	h.until("all to end", func() bool { return !h.HasChildren() })
	for pid, want := range codes {
		if e, ok := h.exits[pid]; !ok || e.Code != want {
			t.Errorf("child %d exited with %d, got %+v", pid, want, e)
		}
	}
	if h.orphans != makers*orphansEach {
		t.Errorf("%d orphans were reaped, %d were made", h.orphans, makers*orphansEach)
	}
}

// The control of the test above: who does not reap has zombies.
func TestOrphansStayZombiesUnlessReaped(t *testing.T) {
	h := newHarness(t)
	const n = 50
	p := h.start(sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done; sleep 1000", n)))
	zombies := func() int {
		z := 0
		for _, st := range descendants(os.Getpid()) {
			if st.dead() && st.ppid == os.Getpid() {
				z++
			}
		}
		return z
	}
	for end := time.Now().Add(20 * time.Second); zombies() < n; {
		if time.Now().After(end) {
			t.Fatalf("%d zombies of %d orphans that nobody reaps", zombies(), n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	h.collect()
	if z := zombies(); z != 0 {
		t.Errorf("%d zombies after reaping", z)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	h.exit(p)
	h.until("its sleep to end", func() bool { return killAll(h) })
}

// killAll ends what a test's scripts left behind and tells when nothing is left.
func killAll(h *harness) bool {
	for pid, st := range descendants(os.Getpid()) {
		if !st.dead() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return !h.HasChildren()
}

func TestReapIsBounded(t *testing.T) {
	h := newHarness(t)
	const n = batch + 100
	h.start(sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done", n)))
	dead := func() int {
		d := 0
		for _, st := range descendants(os.Getpid()) {
			if st.dead() {
				d++
			}
		}
		return d
	}
	for end := time.Now().Add(30 * time.Second); dead() < n+1 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	r := h.Reap()
	if got := len(r.Exits) + len(r.Orphans); got != batch || !r.More {
		t.Errorf("one call reaped %d, more %v; want %d, true", got, r.More, batch)
	}
	r2 := h.Reap()
	if got := len(r2.Exits) + len(r2.Orphans); got != n+1-batch || r2.More {
		t.Errorf("the next call reaped %d, more %v; want %d, false", got, r2.More, n+1-batch)
	}
}

func TestGoneIsNotSignalled(t *testing.T) {
	h := newHarness(t)
	p := h.start(Command{Argv: []string{"sleep", "1000"}, OwnGroup: true})
	if err := p.Signal(0); err != nil {
		t.Errorf("a living process: %v", err)
	}
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	h.exit(p)
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal to the reaped: %v", err)
	}
	if err := p.SignalGroup(syscall.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("SignalGroup to the reaped: %v", err)
	}
}

func TestSignalGroup(t *testing.T) {
	h := newHarness(t)
	p := h.start(Command{Argv: []string{"sh", "-c", "sleep 1000 & sleep 1000"}, OwnGroup: true})
	h.until("both sleeps", func() bool { return len(descendants(os.Getpid())) == 3 })
	if err := p.SignalGroup(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.until("all to end", func() bool { return !h.HasChildren() })

	// A process that shares its supervisor's group is signalled alone.
	p = h.start(sh("sleep 1000"))
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := h.exit(p); e.Signal != syscall.SIGKILL {
		t.Errorf("got %+v", e)
	}
	h.until("its sleep to end", func() bool { return killAll(h) })
}

// EndGroup reaches the rest of the group when its leader is found dead; without
// it the rest lives on.
func TestEndGroup(t *testing.T) {
	for _, end := range []bool{true, false} {
		h := newHarness(t)
		p := h.start(Command{Argv: []string{"sh", "-c", "sleep 1000 & exit 3"}, OwnGroup: true, EndGroup: end})
		if e := h.exit(p); e.Code != 3 {
			t.Errorf("got %+v", e)
		}
		if end {
			h.until("the sleep to end", func() bool { return !h.HasChildren() })
			continue
		}
		if left := h.Leftovers(p); len(left) != 1 || !left[0].Alive() {
			t.Errorf("leftovers: %v", left)
		}
		h.until("the sleep to end", func() bool { return killAll(h) })
	}
}

func TestLeftovers(t *testing.T) {
	h := newHarness(t)
	// Two of the run escape by a session of their own, one of them by two
	// generations; one in the group has another environment; one bears the mark
	// of another run and is none of it.
	p := h.start(Command{
		Argv: []string{"sh", "-c", `
			setsid sleep 1001 &
			setsid sh -c 'setsid sleep 1002 & exit 0' &
			env -i /bin/sleep 1003 &
			EVERMORE_RUN_ID=another setsid sleep 1004 &
			sleep 0.5; exit 0`},
		OwnGroup: true,
	})
	h.exit(p)
	name := func(l Leftover) string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.PID))
		return strings.Join(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")[1:], " ")
	}
	var left []Leftover
	h.until("three leftovers", func() bool { left = h.Leftovers(p); return len(left) == 3 })
	got := map[string]bool{}
	for _, l := range left {
		got[name(l)] = true
	}
	if !got["1001"] || !got["1002"] || !got["1003"] || got["1004"] {
		t.Errorf("leftovers: %v", got)
	}
	for _, l := range left {
		if err := l.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%v: %v", l, err)
		}
	}
	h.until("them to end", func() bool { return len(h.Leftovers(p)) == 0 })
	for _, l := range left {
		if l.Alive() {
			t.Errorf("%v is alive", l)
		}
		if err := l.Signal(syscall.SIGTERM); !errors.Is(err, ErrGone) {
			t.Errorf("%v: %v", l, err)
		}
	}
	h.until("the other to end", func() bool { return killAll(h) })
}

// A pid that is used again is another process.
func TestLeftoverIsItsStartTime(t *testing.T) {
	h := newHarness(t)
	p := h.start(Command{Argv: []string{"sleep", "1000"}})
	st, err := readStat(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	old := Leftover{PID: p.PID(), Name: "sleep", start: st.start - 1}
	if old.Alive() {
		t.Error("a process of another start time is taken for this one")
	}
	if err := old.Signal(syscall.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
	if err := p.Signal(0); err != nil {
		t.Errorf("the other was signalled: %v", err)
	}
	_ = p.Signal(syscall.SIGKILL)
	h.exit(p)
}

// As root without CAP_SYS_PTRACE one can't look at a process of another user,
// but a thread with that user's file system identity can.
func TestLeftoversOfAnotherUser(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	user := &syscall.Credential{Uid: 65534, Gid: 65534}
	p := h.start(Command{
		Argv: []string{"/bin/sh", "-c", "setsid sleep 1000 & sleep 0.2"},
		Env:  []string{"PATH=/bin:/usr/bin"}, User: user, OwnGroup: true, Dir: "/",
	})
	var pid int
	h.until("the sleep", func() bool {
		for id, st := range descendants(os.Getpid()) {
			if st.name == "sleep" && st.pgrp == id {
				pid = id
			}
		}
		return pid != 0
	})
	mark := p.mark
	// Since Linux 6.15 CAP_PERFMON, and so CAP_SYS_ADMIN, lets one look, too.
	withoutCaps(t, []int{unix.CAP_SYS_PTRACE, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN}, func() {
		if hasEnv(pid, mark, nil) {
			t.Error("the control: the environment can be read without CAP_SYS_PTRACE")
		}
		if !hasEnv(pid, mark, user) {
			t.Error("the environment of the other user's process can't be read")
		}
		if hasEnv(pid, RunID+"=other", user) {
			t.Error("a mark that is not there is found")
		}
		if b, err := os.ReadFile("/proc/thread-self/status"); err != nil || !strings.Contains(string(b), "Uid:\t0\t0\t0\t0") {
			t.Errorf("the thread has not got its identity back:\n%s", b)
		}
	})
	h.exit(p)
	h.until("all to end", func() bool { return killAll(h) })
}

// withoutCaps calls f on a thread that lacks the capabilities.
func withoutCaps(t *testing.T, caps []int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not unlocked: it ends with its goroutine.
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		for _, c := range caps {
			data[c/32].Effective &^= 1 << (c % 32)
			data[c/32].Permitted &^= 1 << (c % 32)
		}
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestStartErrors(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name string
		Command
		code int
		exec bool
		text string
	}{
		{"missing", Command{Argv: []string{"/nope"}}, 127, true, `cannot run "/nope": no such file or directory`},
		{"not in PATH", Command{Argv: []string{"no-such-command"}}, 127, true, `cannot run "no-such-command": it is not in the PATH: no such file or directory`},
		{"empty", Command{Argv: []string{""}}, 127, true, `cannot run ""`},
		{"through a file", Command{Argv: []string{"/etc/passwd/x"}}, 127, true, "not a directory"},
		{"directory", Command{Argv: []string{"/etc"}}, 126, true, "it is a directory: permission denied"},
		{"not executable", Command{Argv: []string{write("plain", "x", 0o644)}}, 126, true, "it is not executable: permission denied"},
		{"interpreter", Command{Argv: []string{write("bang", "#!/no/such/sh\n", 0o755)}}, 127, true, "its interpreter was not found"},
		{"not executable in PATH", Command{Argv: []string{"plain"}, Env: []string{"PATH=/nope:" + dir}}, 126, true, "it is not executable"},
		{"working directory", Command{Argv: []string{"true"}, Dir: "/nope"}, 127, true, `cannot enter the working directory "/nope"`},
		{"file as working directory", Command{Argv: []string{"true"}, Dir: "/etc/passwd"}, 127, true, "not a directory"},
	} {
		_, err := h.Start(c.Command)
		var e *StartError
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v", c.name, err)
			continue
		}
		if e.Code() != c.code || e.Exec != c.exec || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: code %d, exec %v: %v", c.name, e.Code(), e.Exec, err)
		}
	}
}

// A process that can't be made is another failure than a command that can't be run.
func TestStartWithoutRoom(t *testing.T) {
	h := newHarness(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// ForkExec needs a pipe to hear of the exec's failure.
	low := unix.Rlimit{Cur: 0, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, err := h.Start(Command{Argv: []string{"/bin/true"}})
	if err2 := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err2 != nil {
		t.Fatal(err2)
	}
	var e *StartError
	if !errors.As(err, &e) || e.Exec || !errors.Is(err, syscall.EMFILE) || e.Code() != 126 {
		t.Errorf("got %#v", err)
	}
}

func TestUserThatCannotBe(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	withoutCaps(t, []int{unix.CAP_SETUID}, func() {
		_, err := h.Start(Command{Argv: []string{"true"}, Env: os.Environ(), User: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}})
		if err == nil || !strings.Contains(err.Error(), "cannot run as uid 65534, gid 65534") {
			t.Errorf("got %v", err)
		}
	})
}

func TestScriptWithoutInterpreter(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bare"), []byte("exit $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if e := h.exit(h.start(Command{Argv: []string{"bare", "42"}, Env: []string{"PATH=" + dir}})); e.Code != 42 {
		t.Errorf("got %+v", e)
	}
}

func TestPathIsTheCommands(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Command{
		{Argv: []string{"tool"}, Env: []string{"PATH=/nope", "PATH=/nope:" + dir}}, // the last one counts
		{Argv: []string{"tool"}, Env: []string{"PATH="}, Dir: dir},                 // an empty part is the working directory
		{Argv: []string{"./tool"}, Env: []string{}, Dir: dir},
	} {
		if e := h.exit(h.start(c)); e.Code != 7 {
			t.Errorf("%v: got %+v", c, e)
		}
	}
	if e := h.exit(h.start(Command{Argv: []string{"true"}, Env: []string{"A=b"}})); e.Code != 0 {
		t.Errorf("without a PATH: got %+v", e)
	}
}

// prctl(2) sets no_new_privs for one thread: without a lock some children go
// without it.
func TestNoNewPrivs(t *testing.T) {
	h := newHarness(t)
	var mu sync.Mutex
	var started []*Process
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			p, err := h.Start(Command{Argv: []string{"sh", "-c", "grep -q '^NoNewPrivs:.1' /proc/self/status"}, Env: os.Environ(), NoNewPrivs: true})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			started = append(started, p)
			mu.Unlock()
		})
	}
	wg.Wait()
	for _, p := range started {
		if e := h.exit(p); e.Code != 0 {
			t.Error("a child without no_new_privs")
		}
	}
}

func TestDescriptors(t *testing.T) {
	h := newHarness(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	own, err := os.Create(filepath.Join(t.TempDir(), "own"))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	// What evermore itself opens is not open in the child; what it inherited is.
	p := h.start(Command{Argv: []string{"sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done"}, Files: []uintptr{0, w.Fd(), 2}})
	w.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if e := h.exit(p); e.Code != 0 && out.Len() == 0 {
		t.Errorf("got %+v", e)
	}
	if !strings.Contains(out.String(), "pipe:[") || strings.Contains(out.String(), own.Name()) {
		t.Errorf("open in the child:\n%s", out.String())
	}
}

// Each run has a mark of its own, and none of an evermore above.
func TestRunID(t *testing.T) {
	h := newHarness(t)
	seen := map[string]bool{}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		h.exit(h.start(Command{Argv: []string{"env"}, Env: []string{RunID + "=above", "A=b"}, Files: []uintptr{0, w.Fd(), 2}}))
		w.Close()
		var out bytes.Buffer
		if _, err := out.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
		id, ok := strings.CutPrefix(out.String(), "A=b\n"+RunID+"=")
		if id = strings.TrimSpace(id); !ok || len(id) != 32 || seen[id] {
			t.Errorf("got %q", out.String())
		}
		seen[id] = true
	}
}

func TestDieWithParent(t *testing.T) {
	supervisor := exec.Command("/proc/self/exe")
	supervisor.Env = append(os.Environ(), "REAPER_TEST_ROLE=supervisor")
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if st, err := readStat(pid); err != nil || st.ppid != supervisor.Process.Pid {
		t.Fatalf("the child is not there: %v %v", st, err)
	}
	_ = supervisor.Process.Kill()
	_ = supervisor.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if st, err := readStat(pid); err != nil || st.dead() {
			return
		}
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the child outlives its supervisor")
		}
	}
}

func TestHalted(t *testing.T) {
	h := newHarness(t)
	p := h.start(Command{Argv: []string{"sleep", "1000"}})
	if p.Halted() {
		t.Error("a running process is halted")
	}
	_ = p.Signal(syscall.SIGSTOP)
	h.until("the stop", p.Halted)
	_ = p.Signal(syscall.SIGKILL)
	h.exit(p)
	if p.Halted() {
		t.Error("a reaped process is halted")
	}
}

func TestZombies(t *testing.T) {
	h := newHarness(t)
	if z := h.Zombies(); z != nil {
		t.Errorf("zombies of nobody: %v", z)
	}
	// The sleep does not know of the child that it inherits from the shell.
	p := h.start(sh("sh -c 'exit 1' & exec sleep 1000"))
	var z []Zombie
	h.until("a zombie", func() bool { z = h.Zombies(); return len(z) == 1 })
	if z[0].ParentPID != p.PID() || z[0].ParentName != "sleep" {
		t.Errorf("got %+v", z[0])
	}
	_ = p.Signal(syscall.SIGKILL)
	h.exit(p)
	h.until("it to be adopted and reaped", func() bool { return !h.HasChildren() })
	if h.orphans != 1 {
		t.Errorf("%d orphans", h.orphans)
	}
}

func TestBelow(t *testing.T) {
	h := newHarness(t)
	p := h.start(sh("sleep 1000; true"))
	var pid int
	h.until("the sleep", func() bool {
		for id, st := range descendants(os.Getpid()) {
			if st.name == "sleep" {
				pid = id
			}
		}
		return pid != 0
	})
	self := os.Getpid()
	for _, c := range []struct {
		pid, of int
		want    bool
	}{{pid, self, true}, {pid, p.PID(), true}, {p.PID(), self, true}, {self, p.PID(), false}, {p.PID(), pid, false}, {1 << 30, self, false}} {
		if got := Below(c.pid, c.of); got != c.want {
			t.Errorf("Below(%d, %d) = %v", c.pid, c.of, got)
		}
	}
	h.until("all to end", func() bool { return killAll(h) })
}

func TestParseStat(t *testing.T) {
	st, err := parseStat([]byte("17 (a ) (b) S 5 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3\n"))
	if err != nil || st != (stat{pid: 17, name: "a ) (b", state: 'S', ppid: 5, pgrp: 9, start: 4242}) {
		t.Errorf("got %+v, %v", st, err)
	}
	for _, bad := range []string{"", "17", "17 (a", "17 (a) S", ") (", "x (a) S 5 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1"} {
		if st, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q gives %+v", bad, st)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("17 (a ) (b) S 5 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3\n"))
	f.Add([]byte("1 () Z 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && st.state == 0 {
			t.Errorf("%q gives %+v", b, st)
		}
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}
