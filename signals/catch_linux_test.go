//go:build amd64 || arm64

package signals

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	ossignal "os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	roles["receive"] = receive
	roles["receive as two"] = receiveAsTwo
	roles["receive values"] = receiveValues
	roles["receive by os/signal"] = receiveByOSSignal
	roles["send"] = send
	roles["storm"] = storm
	roles["answer"] = answer
	roles["exit"] = func() error { return nil }
	roles["idle"] = func() error { fmt.Println("ready"); time.Sleep(time.Hour); return nil }
	roles["inherit HUP ignored"] = inheritIgnored
	roles["inherit USR1 blocked"] = inheritBlocked
	roles["write to nobody"] = writeToNobody
	roles["reap 2000"] = reap2000
	roles["reuse a pid"] = reusePID
	roles["fork for another"] = forkForAnother
	roles["abort"] = abort
}

// A process is this binary in one of its roles.
type process struct {
	*exec.Cmd
	pidfd int
	in    io.WriteCloser
	lines chan string // of its standard output
}

// begin starts a process and waits for its first line, "ready".
func begin(t testing.TB, role string, attr *syscall.SysProcAttr) *process {
	t.Helper()
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	p := &process{Cmd: exec.Command("/proc/self/exe"), pidfd: -1, lines: make(chan string, 1<<14)}
	attr.PidFD = &p.pidfd
	p.Env = environment(role)
	p.Stderr = os.Stderr
	p.SysProcAttr = attr
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
		unix.Close(p.pidfd)
	})
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	if first := <-p.lines; first != "ready" {
		t.Fatalf("%s began with %q", role, first)
	}
	return p
}

// environment gives that of a process in some role. The race detector would have
// it sleep for a second at its end.
func environment(role string) []string {
	return append(os.Environ(), roleVar+"="+role, "GORACE=atexit_sleep_ms=0")
}

// kill has a "send" process send n times by kill(2), or, with a value, by
// sigqueue(3), each value one above the one before.
func (p *process) kill(t testing.TB, pid int, s syscall.Signal, n, value int) {
	t.Helper()
	fmt.Fprintln(p.in, pid, int(s), n, value)
	if line := <-p.lines; line != "sent" {
		t.Fatalf("the sender says %q", line)
	}
}

func send() error {
	fmt.Println("ready")
	for {
		var pid, sig, n, value int
		if _, err := fmt.Scanln(&pid, &sig, &n, &value); err != nil {
			return nil
		}
		for range n {
			var err error
			if value == 0 {
				err = unix.Kill(pid, syscall.Signal(sig))
			} else {
				err = sigqueue(pid, syscall.Signal(sig), value)
				value++
			}
			if err != nil {
				return err
			}
		}
		fmt.Println("sent")
	}
}

func sigqueue(pid int, s syscall.Signal, value int) error {
	var info [siginfoSize]byte
	put := func(offset int, v int32) { *(*int32)(unsafe.Pointer(&info[offset])) = v }
	put(0, int32(s))
	put(8, siQueue)
	put(16, int32(os.Getpid()))
	put(20, int32(os.Getuid()))
	put(24, int32(value))
	if _, _, errno := unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(s), uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	return nil
}

func storm() error {
	fmt.Println("ready")
	for {
		unix.Kill(os.Getppid(), unix.SIGTERM)
	}
}

// receive prints what arrives: "signal code pid".
func receive() error {
	c, err := Catch(Options{})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for r := range c.Signals() {
		fmt.Println(int(r.Signal), r.Code, r.PID)
	}
	return nil
}

func receiveAsTwo() error {
	second := exec.Command("/proc/self/exe")
	second.Env = environment("receive")
	second.Stdin = os.Stdin
	out, err := second.StdoutPipe()
	if err != nil {
		return err
	}
	if err := second.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return err
	}
	go io.Copy(os.Stdout, out)
	return receive()
}

// receiveValues prints "signal code pid value". The real-time signal 40 that it
// takes from a signalfd was blocked by who started it, so the Go runtime keeps it
// blocked on all threads.
func receiveValues() error {
	var mask unix.Sigset_t
	mask.Val[0] = uint64(SetOf(40))
	fd, err := unix.Signalfd(-1, &mask, 0)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		var info unix.SignalfdSiginfo
		if _, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))); err != nil {
			return err
		}
		fmt.Println(info.Signo, info.Code, info.Pid, info.Int)
	}
}

// withBlocked runs f with a signal blocked, which what f starts inherits.
func withBlocked(t *testing.T, s syscall.Signal, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var mask unix.Sigset_t
	mask.Val[0] = uint64(SetOf(s))
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		t.Fatal(err)
	}
	defer unix.PthreadSigmask(unix.SIG_UNBLOCK, &mask, nil)
	f()
}

// direct forwards every forwardable signal as it is.
func direct() (d [65]uint8) {
	for _, s := range All() {
		if Forwardable(s) {
			d[s] = uint8(s)
		}
	}
	return d
}

// never are the signals that no Catcher takes.
var never = SetOf(unix.SIGKILL, unix.SIGSTOP, unix.SIGURG, 32, 33)

func TestEverySignalArrives(t *testing.T) {
	c := catch(t, Options{})
	sender := begin(t, "send", nil)
	for _, s := range All() {
		if never.Has(s) {
			continue
		}
		sender.kill(t, os.Getpid(), s, 1, 0)
		if s == unix.SIGCHLD {
			next(t, c.Children(), "SIGCHLD")
			continue
		}
		want := Received{Signal: s, PID: sender.Process.Pid, UID: os.Getuid()}
		if r := next(t, c.Signals(), Name(s)); r != want {
			t.Errorf("sent %s, received %+v, want %+v", Name(s), r, want)
		}
	}
	if c.Lost() != 0 {
		t.Errorf("%d are lost", c.Lost())
	}
}

func TestEveryForwardableSignalIsForwarded(t *testing.T) {
	c := catch(t, Options{Direct: direct()})
	app, sender := begin(t, "receive", nil), begin(t, "send", nil)
	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	for _, s := range All() {
		if never.Has(s) || s == unix.SIGCHLD {
			continue
		}
		sender.kill(t, os.Getpid(), s, 1, 0)
		want := Received{Signal: s, PID: sender.Process.Pid, UID: os.Getuid(), Forwarded: Forwardable(s)}
		if r := next(t, c.Signals(), Name(s)); r != want {
			t.Errorf("sent %s, received %+v, want %+v", Name(s), r, want)
		}
		if got := c.JustForwarded(s); got != Forwardable(s) {
			t.Errorf("JustForwarded(%s) = %t", Name(s), got)
		}
		if c.JustForwarded(s) {
			t.Errorf("JustForwarded(%s) is true twice", Name(s))
		}
		if !Forwardable(s) {
			continue
		}
		if got, want := next(t, app.lines, Name(s)), fmt.Sprintln(int(s), siUser, os.Getpid()); got+"\n" != want {
			t.Errorf("sent %s, the app received %q, want %q", Name(s), got, want)
		}
	}
}

func TestRewriting(t *testing.T) {
	var o Options
	o.Direct[unix.SIGTERM] = uint8(unix.SIGINT)
	c := catch(t, o)
	app := begin(t, "receive", nil)
	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	// A siginfo that says SIGTERM cannot be sent along with SIGINT.
	for _, queue := range []bool{false, true} {
		if queue {
			sigqueue(os.Getpid(), unix.SIGTERM, 1)
		} else {
			unix.Kill(os.Getpid(), unix.SIGTERM)
		}
		if r := next(t, c.Signals(), "SIGTERM"); r.Signal != unix.SIGTERM || !r.Forwarded {
			t.Errorf("received %+v", r)
		}
		if got, want := next(t, app.lines, "SIGINT"), fmt.Sprint(int(unix.SIGINT), siUser, os.Getpid()); got != want {
			t.Errorf("the app received %q, want %q", got, want)
		}
		if c.JustForwarded(unix.SIGTERM) || !c.JustForwarded(unix.SIGINT) {
			t.Error("JustForwarded goes by the signal that was sent, not the one received")
		}
	}
	// What is not in Direct is reported and no more.
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	if r := next(t, c.Signals(), "SIGUSR1"); r.Signal != unix.SIGUSR1 || r.Forwarded {
		t.Errorf("received %+v", r)
	}
}

// Real-time signals queue, each with its value. Through os/signal mostly one of
// fifty arrives.
func TestQueuedRealTimeSignals(t *testing.T) {
	const n = 50
	c := catch(t, Options{Direct: direct()})
	var app *process
	withBlocked(t, 40, func() { app = begin(t, "receive values", nil) })
	sender, other := begin(t, "send", nil), begin(t, "receive by os/signal", nil)
	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	sender.kill(t, os.Getpid(), 40, n, 1000)
	want := Received{Signal: 40, Code: siQueue, PID: sender.Process.Pid, UID: os.Getuid(), Forwarded: true}
	for range n {
		if r := next(t, c.Signals(), "queued signal"); r != want {
			t.Errorf("received %+v, want %+v", r, want)
		}
	}
	// Two threads can handle two of them at once, so the order is not certain.
	var got, all []string
	for i := range n {
		got = append(got, next(t, app.lines, "value"))
		all = append(all, fmt.Sprintln(40, siQueue, sender.Process.Pid, 1000+i))
	}
	slices.Sort(got)
	if got, want := strings.Join(got, "\n")+"\n", strings.Join(all, ""); got != want {
		t.Errorf("the app received:\n%swant:\n%s", got, want)
	}
	// Without a value, and the same to a process that uses os/signal.
	sender.kill(t, os.Getpid(), 40, n, 0)
	for range n {
		next(t, c.Signals(), "queued signal")
		next(t, app.lines, "signal")
	}
	sender.kill(t, other.Process.Pid, 40, n, 0)
	sender.kill(t, other.Process.Pid, unix.SIGTERM, 1, 0)
	t.Logf("os/signal: %s of %d", next(t, other.lines, "os/signal"), n)
}

func receiveByOSSignal() error {
	got, end := make(chan os.Signal, 1000), make(chan os.Signal, 1)
	ossignal.Notify(got, syscall.Signal(40))
	ossignal.Notify(end, unix.SIGTERM)
	fmt.Println("ready")
	<-end
	fmt.Println(len(got))
	return nil
}

func TestGroup(t *testing.T) {
	c := catch(t, Options{Direct: direct(), Group: true})
	app := begin(t, "receive as two", &syscall.SysProcAttr{Setpgid: true})
	t.Cleanup(func() { unix.Kill(-app.Process.Pid, unix.SIGKILL) })
	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	r := next(t, c.Signals(), "SIGUSR1")
	if !kernelIsAtLeast(t, 6, 9) { // PIDFD_SIGNAL_PROCESS_GROUP
		if r.Forwarded || c.JustForwarded(unix.SIGUSR1) {
			t.Errorf("received %+v from a kernel that cannot have forwarded it", r)
		}
		t.Skip("the kernel is older than 6.9: it signals no group through a pidfd")
	}
	if !r.Forwarded {
		t.Fatalf("received %+v", r)
	}
	want := fmt.Sprint(int(unix.SIGUSR1), siUser, os.Getpid())
	for range 2 {
		if got := next(t, app.lines, "SIGUSR1"); got != want {
			t.Errorf("the group received %q, want %q", got, want)
		}
	}
	// Once its leader is reaped the number may be another group's, but the pidfd
	// still means this one.
	app.Process.Kill()
	app.Process.Wait()
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	if r := next(t, c.Signals(), "SIGUSR1"); !r.Forwarded {
		t.Error("the rest of a group whose leader is dead was not signalled")
	}
	unix.Kill(-app.Process.Pid, unix.SIGKILL)
}

func kernelIsAtLeast(t *testing.T, major, minor int) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var gotMajor, gotMinor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &gotMajor, &gotMinor); err != nil {
		t.Fatal(err)
	}
	return gotMajor > major || gotMajor == major && gotMinor >= minor
}

func TestNobodyToForwardTo(t *testing.T) {
	c := catch(t, Options{Direct: direct()})
	app := begin(t, "idle", nil)
	unforwarded := func(when string) {
		t.Helper()
		unix.Kill(os.Getpid(), unix.SIGTERM)
		if r := next(t, c.Signals(), "SIGTERM"); r.Forwarded {
			t.Errorf("%s: received %+v", when, r)
		}
		if c.JustForwarded(unix.SIGTERM) {
			t.Errorf("%s: JustForwarded is true", when)
		}
	}
	unforwarded("before there is a target")

	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	if err := c.SetTarget(-1); err != nil {
		t.Fatal(err)
	}
	unforwarded("with no target again")

	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	app.Process.Kill()
	app.Process.Wait()
	unforwarded("after the target was reaped")

	if err := c.SetTarget(1 << 20); !errors.Is(err, unix.EBADF) {
		t.Errorf("SetTarget with a descriptor that is not open: %v", err)
	}
	if c.JustForwarded(0) || c.JustForwarded(65) {
		t.Error("JustForwarded of no signal is true")
	}
}

// A pid that was reused is another process, to which nothing is sent.
func TestReusedPID(t *testing.T) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if os.Getuid() != 0 {
		missing(t, "a new PID namespace needs root")
	}
	p := begin(t, "reuse a pid", attr)
	if line := next(t, p.lines, "its result"); line != "ok" {
		t.Error(line)
	}
}

func reusePID() error {
	fmt.Println("ready")
	c, err := Catch(Options{Direct: direct()})
	if err != nil {
		return err
	}
	idle := func(pidfd *int) (int, error) {
		// Without a pipe to say it is ready: SIGTERM ends it at any moment.
		return syscall.ForkExec("/proc/self/exe", []string{"idle"}, &syscall.ProcAttr{
			Env: []string{roleVar + "=idle"}, Sys: &syscall.SysProcAttr{PidFD: pidfd},
		})
	}
	var pidfd int
	pid, err := idle(&pidfd)
	if err != nil {
		return err
	}
	if err := c.SetTarget(pidfd); err != nil {
		return err
	}
	unix.Kill(pid, unix.SIGKILL)
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return err
	}
	var same int
	for range 100 { // a thread of this process can take the pid
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return err
		}
		if same, err = idle(nil); err != nil {
			return err
		}
		if same == pid {
			break
		}
		unix.Kill(same, unix.SIGKILL)
		unix.Wait4(same, nil, 0, nil)
	}
	if same != pid {
		return fmt.Errorf("the pid %d could not be had again", pid)
	}
	unix.Kill(os.Getpid(), unix.SIGKILL) // no effect on PID 1
	if err := sigqueue(os.Getpid(), unix.SIGTERM, 1); err != nil {
		return err
	}
	if r := <-c.Signals(); r.Signal != unix.SIGTERM || r.Forwarded {
		return fmt.Errorf("received %+v", r)
	}
	// The negative control: the number alone does mean the new process.
	unix.Kill(pid, unix.SIGINT)
	var status unix.WaitStatus
	unix.Wait4(pid, &status, 0, nil)
	if status.Signal() != unix.SIGINT {
		return fmt.Errorf("the process with the reused pid ended by %v, want SIGINT: the handler has signalled it", status.Signal())
	}
	fmt.Println("ok")
	return nil
}

// While others send SIGTERM without a pause, each death by it is known to be of
// the handler's making the moment it is reaped, and never a second time.
func TestJustForwardedInAStorm(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		missing(t, "sleep is not installed")
	}
	c := catch(t, Options{Direct: direct()})
	ended := make(chan struct{})
	drained := sync.WaitGroup{}
	drained.Go(func() {
		for {
			select {
			case <-c.Signals():
			case <-ended:
				return
			}
		}
	})
	t.Cleanup(func() { close(ended); drained.Wait() })
	begin(t, "storm", nil)
	begin(t, "storm", nil)

	for range 200 {
		pidfd := -1
		pid, err := syscall.ForkExec(sleep, []string{"sleep", "1000"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
		if err != nil {
			t.Fatal(err)
		}
		if c.JustForwarded(unix.SIGTERM) {
			t.Fatal("JustForwarded is true though nothing can have been sent since the last child was reaped")
		}
		if err := c.SetTarget(pidfd); err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				break
			}
		}
		if !status.Signaled() || status.Signal() != unix.SIGTERM {
			t.Fatalf("the child ended by %#x", status)
		}
		if !c.JustForwarded(unix.SIGTERM) {
			t.Fatal("JustForwarded is false though the handler's signal ended the child")
		}
		unix.Close(pidfd)
	}
}

// A fault of this program is a panic as ever, while those that are sent by a
// process are only reported.
func TestFaults(t *testing.T) {
	c := catch(t, Options{})
	sender := begin(t, "send", nil)
	faults := SetOf(unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, unix.SIGSTKFLT)
	for _, s := range faults.Signals() {
		sender.kill(t, os.Getpid(), s, 1, 0)
		if r := next(t, c.Signals(), Name(s)); r.Signal != s || r.PID != sender.Process.Pid {
			t.Errorf("received %+v", r)
		}
		sender.kill(t, os.Getpid(), s, 1, 7)
		if r := next(t, c.Signals(), Name(s)); r.Signal != s || r.Code != siQueue {
			t.Errorf("received %+v", r)
		}
		unix.Tgkill(os.Getpid(), unix.Gettid(), s)
		if r := next(t, c.Signals(), Name(s)); r.Signal != s || r.Code != siTkill {
			t.Errorf("received %+v", r)
		}
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if err := panicOf(func() { var p *[4]int; p[1]++ }); err == nil || !strings.Contains(err.Error(), "nil pointer") {
					t.Errorf("a nil dereference gave %v", err)
				}
				zero := 0
				if err := panicOf(func() { zero = 1 / zero }); err == nil || !strings.Contains(err.Error(), "divide by zero") {
					t.Errorf("a division by zero gave %v", err)
				}
			}
		})
	}
	sender.kill(t, os.Getpid(), unix.SIGSEGV, 500, 0)
	wg.Wait()
}

func panicOf(f func()) (err runtime.Error) {
	defer func() { err, _ = recover().(runtime.Error) }()
	f()
	return nil
}

// The runtime ends a crashed program by SIGABRT, which reaches it: after the
// handler has swallowed the first it takes the default action.
func TestCrash(t *testing.T) {
	p := exec.Command("/proc/self/exe")
	p.Env = append(environment("abort"), "GOTRACEBACK=crash", "GOMAXPROCS=1")
	out, err := p.CombinedOutput()
	status, ok := p.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != unix.SIGABRT || !strings.Contains(string(out), "panic: at the test's request") {
		t.Errorf("it ended by %v, and said:\n%s", err, out)
	}
}

func abort() error {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if _, err := Catch(Options{}); err != nil {
		return err
	}
	panic("at the test's request")
}

func TestInheritedIgnoredStaysIgnored(t *testing.T) {
	p := exec.Command("sh", "-c", `trap "" HUP; exec /proc/self/exe`)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.Args[2] = strings.Replace(p.Args[2], "/proc/self/exe", exe, 1)
	p.Env = environment("inherit HUP ignored")
	if out, err := p.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func inheritIgnored() error {
	c, err := Catch(Options{Direct: direct()})
	if err != nil {
		return err
	}
	unix.Kill(os.Getpid(), unix.SIGHUP)
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	if r := <-c.Signals(); r.Signal != unix.SIGUSR1 {
		return fmt.Errorf("received %+v, want SIGUSR1", r)
	}
	if a, err := swapAction(unix.SIGHUP, nil); err != nil || a.handler != sigIgnore {
		return fmt.Errorf("the action of SIGHUP is %+v, %v", a, err)
	}
	return nil
}

func TestInheritedBlockedArrives(t *testing.T) {
	var out []byte
	var err error
	withBlocked(t, unix.SIGUSR1, func() {
		p := exec.Command("/proc/self/exe")
		p.Env = environment("inherit USR1 blocked")
		out, err = p.CombinedOutput()
	})
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func inheritBlocked() error {
	var mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask); err != nil {
		return err
	}
	if !Set(mask.Val[0]).Has(unix.SIGUSR1) {
		return errors.New("SIGUSR1 is not blocked: the test tests nothing")
	}
	c, err := Catch(Options{})
	if err != nil {
		return err
	}
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	if r := <-c.Signals(); r.Signal != unix.SIGUSR1 {
		return fmt.Errorf("received %+v, want SIGUSR1", r)
	}
	c.Close()
	return nil
}

// Own writes that fail raise SIGPIPE and SIGXFSZ, which are nobody else's
// business; and a broken standard output does not end the process.
func TestOwnFailedWrites(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	p := exec.Command("/proc/self/exe")
	p.Env = environment("write to nobody")
	p.Dir = t.TempDir()
	p.Stdout = w
	var out strings.Builder
	p.Stderr = &out
	if err := p.Run(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
}

func writeToNobody() error {
	c, err := Catch(Options{Direct: direct()})
	if err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("x"); !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("a write to a broken standard output gave %v", err)
	}
	f, err := os.Create("full")
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		return err
	}
	_, err = f.WriteString("x")
	unix.Setrlimit(unix.RLIMIT_FSIZE, &limit) // the coverage file is to be written
	if !errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("a write above the limit gave %v", err)
	}
	// Those that another process sends, or this one by sigqueue, are reported.
	if err := sigqueue(os.Getpid(), unix.SIGPIPE, 1); err != nil {
		return err
	}
	if r := <-c.Signals(); r.Signal != unix.SIGPIPE || r.Code != siQueue {
		return fmt.Errorf("received %+v", r)
	}
	return nil
}

// A timer of the kernel stands for its ^C: both are sent with SI_KERNEL.
func TestSharedTerminal(t *testing.T) {
	app := begin(t, "receive", nil)
	for _, shared := range []bool{false, true} {
		c, err := Catch(Options{Direct: direct(), SharedTerminal: shared})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetTarget(app.pidfd); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: unix.Timeval{Usec: 1}}); err != nil {
			t.Fatal(err)
		}
		want := Received{Signal: unix.SIGALRM, Code: 0x80, Forwarded: !shared}
		if r := next(t, c.Signals(), "SIGALRM"); r != want || !r.FromKernel() {
			t.Errorf("SharedTerminal %t: received %+v, want %+v", shared, r, want)
		}
		// What a process sends is forwarded in any case.
		unix.Kill(os.Getpid(), unix.SIGINT)
		if r := next(t, c.Signals(), "SIGINT"); !r.Forwarded || r.FromKernel() {
			t.Errorf("SharedTerminal %t: received %+v", shared, r)
		}
		c.Close()
	}
}

func TestDefault(t *testing.T) {
	keep := SetOf(unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGCHLD)
	catch(t, Options{Default: keep})
	for _, s := range All() {
		a, err := swapAction(s, nil)
		if s == unix.SIGKILL || s == unix.SIGSTOP {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := !never.Has(s) && (!keep.Has(s) || s == unix.SIGCHLD)
		if got := a.handler == handlerPC(); got != want {
			t.Errorf("%s is caught: %t, want %t", Name(s), got, want)
		}
		if keep.Has(s) && s != unix.SIGCHLD && a.handler != 0 {
			t.Errorf("the action of %s is %+v, want the default", Name(s), a)
		}
	}
}

// A signal that meets the child of a vfork before its exec has its default action
// there, and this process hears nothing of it. CLONE_PARENT makes it certain to
// meet: syscall.ForkExec has a child that finds another parent signal itself.
func TestSignalBetweenForkAndExec(t *testing.T) {
	p := begin(t, "fork for another", nil)
	pid, err := strconv.Atoi(next(t, p.lines, "the pid of its child"))
	if err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	if !status.Signaled() || status.Signal() != 34 {
		t.Errorf("the child ended by %#x, want signal 34", status)
	}
	if line := next(t, p.lines, "what the parent received"); line != "SIGUSR1" {
		t.Errorf("the process that forks received %s, want only the SIGUSR1 after it", line)
	}
}

func forkForAnother() error {
	c, err := Catch(Options{Direct: direct()})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"exit"}, &syscall.ProcAttr{
		Env: []string{roleVar + "=exit"}, // where it gets so far
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, Pdeathsig: 34},
	})
	if err != nil {
		return err
	}
	fmt.Println(pid)
	unix.Kill(os.Getpid(), unix.SIGUSR1)
	fmt.Println(Name((<-c.Signals()).Signal))
	return nil
}

func TestReportsThatFindThePipeFull(t *testing.T) {
	c := catch(t, Options{})
	// A signal to the thread itself is handled before tgkill returns: none merge.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const n = 5000
	for range n {
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	lost := c.Lost()
	if lost == 0 || lost > n-512 {
		t.Errorf("%d of %d are lost", lost, n)
	}
	// A stop that finds no room is told all the same, without its sender.
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stopped := c.Lost() == lost // somebody has made room
	lost = c.Lost()
	for reported := uint64(0); reported < n+1-lost || !stopped; {
		switch r := next(t, c.Signals(), "SIGUSR1 or SIGTERM"); {
		case r == (Received{Signal: unix.SIGTERM}):
			stopped = true
		case r == (Received{Signal: unix.SIGUSR1}): // for those that were lost
		case r.Code == siTkill && r.PID == os.Getpid():
			reported++
		default:
			t.Fatalf("received %+v", r)
		}
	}
	// It was only full: what comes now is reported again.
	unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGUSR2)
	if r := next(t, c.Signals(), "SIGUSR2"); r.Signal != unix.SIGUSR2 {
		t.Errorf("received %+v", r)
	}
	if c.Lost() != lost {
		t.Errorf("%d are lost, then %d", lost, c.Lost())
	}
}

func TestUnderLoad(t *testing.T) {
	c := catch(t, Options{Direct: direct()})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<16)) }))
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		for ctx.Err() == nil {
			runtime.GC()
		}
	})
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				resp, err := http.Get(server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	defer func() {
		cancel()
		load.Wait()
		server.Close()
	}()
	const n = 50
	app, sender := begin(t, "receive", nil), begin(t, "send", nil)
	if err := c.SetTarget(app.pidfd); err != nil {
		t.Fatal(err)
	}
	for s := rtMin + 1; s <= rtMax; s++ {
		sender.kill(t, os.Getpid(), s, n, 0)
		for range n {
			if r := next(t, c.Signals(), Name(s)); r.Signal != s || !r.Forwarded {
				t.Fatalf("received %+v, want %s", r, Name(s))
			}
			next(t, app.lines, Name(s))
		}
	}
}

func TestNoEdgeOfSIGCHLDIsLost(t *testing.T) {
	p := begin(t, "reap 2000", nil)
	if line := next(t, p.lines, "the last child"); line != "2000" {
		t.Errorf("%s of 2000 children were reaped", line)
	}
}

func reap2000() error {
	path, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	c, err := Catch(Options{})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	failed := make(chan error, 1)
	go func() {
		for range 2000 {
			if _, err := syscall.ForkExec(path, []string{"true"}, nil); err != nil {
				failed <- err
				return
			}
		}
	}()
	for reaped := 0; reaped < 2000; {
		select {
		case <-c.Children():
		case err := <-failed:
			return err
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && err != unix.EINTR {
				break
			}
			reaped++
		}
		if reaped == 2000 {
			fmt.Println(reaped)
		}
	}
	return nil
}

func TestCloseLeavesNothing(t *testing.T) {
	before := actions(t)
	fds, routines := openFiles(t), runtime.NumGoroutine()
	for range 3 {
		c, err := Catch(Options{})
		if err != nil {
			t.Fatal(err)
		}
		// The reader may be waiting for a receiver that never comes.
		for range 200 {
			unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGUSR1)
		}
		c.Close()
	}
	if after := actions(t); after != before {
		t.Errorf("the actions of signals are not what they were:\n%v\n%v", before, after)
	}
	if now := openFiles(t); !slices.Equal(now, fds) {
		t.Errorf("open files: %v, then %v", fds, now)
	}
	if now := runtime.NumGoroutine(); now > routines {
		t.Errorf("goroutines: %d, then %d", routines, now)
	}
}

func actions(t *testing.T) (all [65]action) {
	ossignal.Ignore(unix.SIGPIPE) // as Close leaves it
	for _, s := range All() {
		if s == unix.SIGKILL || s == unix.SIGSTOP {
			continue
		}
		a, err := swapAction(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		all[s] = a
	}
	return all
}

func openFiles(t *testing.T) (names []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, e.Name()+" "+target)
		}
	}
	return names
}

func TestCatchWithoutDescriptors(t *testing.T) {
	free, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 100) // above all that are open
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(free)
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	// Every free number below 100 is taken, but for so many.
	var taken []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fd)
		if fd > free {
			break
		}
	}
	top := taken[len(taken)-1] + 1
	defer func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
	}()
	for left, want := range []string{"pipe", "pipe", "eventfd", "dup"} {
		few := unix.Rlimit{Cur: uint64(top + left), Max: limit.Max}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &few, nil); err != nil {
			t.Fatal(err)
		}
		c, err := Catch(Options{})
		unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil)
		if err == nil {
			c.Close()
		}
		if want := "cannot catch signals: " + want + ": too many open files"; err == nil || err.Error() != want {
			t.Errorf("with %d descriptors: %v, want %s", left, err, want)
		}
	}
	// A failure leaves nothing behind.
	catch(t, Options{})
}

// The cost at start.
func BenchmarkCatch(b *testing.B) {
	for b.Loop() {
		c, err := Catch(Options{})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// From a request by pipe to another process, through the signal it answers with,
// to the receiver, this process being idle meanwhile.
func BenchmarkReceive(b *testing.B) {
	run := func(name string, receive func() (any, func())) {
		b.Run(name, func(b *testing.B) {
			partner := begin(b, "answer", nil)
			from, end := receive()
			defer end()
			for b.Loop() {
				partner.in.Write([]byte{0})
				switch from := from.(type) {
				case <-chan Received:
					<-from
				case chan os.Signal:
					<-from
				}
			}
		})
	}
	run("poller", func() (any, func()) {
		c, err := Catch(Options{})
		if err != nil {
			b.Fatal(err)
		}
		return c.Signals(), c.Close
	})
	run("blocking-read", func() (any, func()) {
		c, err := Catch(Options{})
		if err != nil {
			b.Fatal(err)
		}
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			b.Fatal(err)
		}
		handler.reports = int64(pipe[1])
		got := make(chan Received, 64)
		go func() {
			defer unix.Close(pipe[0])
			var info [siginfoSize]byte
			for {
				if n, _ := unix.Read(pipe[0], info[:]); n != siginfoSize {
					return
				}
				got <- received(info[:])
			}
		}()
		return (<-chan Received)(got), func() { c.Close(); unix.Close(pipe[1]) }
	})
	run("os-signal", func() (any, func()) {
		got := make(chan os.Signal, 64)
		ossignal.Notify(got, unix.SIGUSR1)
		return got, func() { ossignal.Stop(got) }
	})
}

func answer() error {
	fmt.Println("ready")
	var one [1]byte
	for {
		if n, _ := unix.Read(0, one[:]); n != 1 {
			return nil
		}
		unix.Kill(os.Getppid(), unix.SIGUSR1)
	}
}
