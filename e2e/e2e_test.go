// Package e2e tests the program as its users meet it: a binary, real processes,
// real node, as a real PID 1 and not as one.
//
// The scripts in testdata/script say what is expected. Each of them is run in
// every place of places; script_test.go has the commands they are made of.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// patience is how long something that must happen may take on a machine
	// that is busy with other things. Nothing waits for it to pass.
	patience = time.Minute
	// nobody is the ordinary user that tests run as when they are run by root.
	nobody = 65534
)

// binaries is the folder with what is tested, the first of the PATH:
//
//	evermore         with the race detector, counting coverage
//	forever          a link to it
//	evermore-static  as it is shipped
//	lab, receiver    helpers, see lab/ and testdata/receiver.c
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests mostly wait for processes.
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set(strconv.Itoa(4 * runtime.NumCPU()))
	}
	// What was started by nohup(1), or by a script with "&", ignores these, and so
	// would its children.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "evermore-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Other users run what is in it.
	if err := errors.Join(os.Chmod(dir, 0o755), build(dir), coverTo(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "cannot build what is to be tested:", err)
		return 1
	}
	binaries = dir
	_ = os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	defer removeImages()
	code := m.Run()
	races, _ := filepath.Glob(filepath.Join(dir, "races", "*"))
	for _, race := range races {
		text, _ := os.ReadFile(race)
		fmt.Fprintf(os.Stderr, "%s\n", text)
		code = 1
	}
	return code
}

func build(dir string) error {
	run := func(env string, argv ...string) error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), env)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
		return nil
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	return errors.Join(
		run("CGO_ENABLED=1", "go", "build", "-race", "-cover", "-coverpkg=evermore/...", "-o", in("evermore"), "evermore"),
		run("CGO_ENABLED=0", "go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", in("evermore-static"), "evermore"),
		run("CGO_ENABLED=0", "go", "build", "-o", in("lab"), "evermore/e2e/lab"),
		// The race detector needs a C compiler, too.
		run("", "cc", "-O1", "-Wall", "-o", in("receiver"), "testdata/receiver.c"),
		os.Symlink("evermore", in("forever")),
	)
}

// coverTo sets where the binary with coverage leaves its counters, and where the
// race detector leaves what it finds.
func coverTo(dir string) error {
	counters := os.Getenv("EVERMORE_COVERDIR")
	if counters == "" {
		counters = filepath.Join(dir, "cover")
	}
	counters, err := filepath.Abs(counters)
	if err != nil {
		return err
	}
	for _, path := range []string{counters, filepath.Join(dir, "races")} {
		// Every user of the tests writes there, and replaces what others wrote.
		if err := errors.Join(os.MkdirAll(path, 0o777), os.Chmod(path, 0o777)); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Setenv("GOCOVERDIR", counters),
		os.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(dir, "races", "race")),
	)
}

// needs skips the test when a tool is missing; where CI=true it fails.
func needs(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			lacks(t, tool+" is not installed")
		}
	}
}

// lacks skips the test for the reason; where CI=true it fails.
func lacks(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// eventually waits until ok, and fails the test when that takes too long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("waited in vain: %s", what)
	}
}

// poll asks until ok, at growing intervals, and tells whether it ever was.
func poll(ok func() bool) bool {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
}

// place is where a program runs.
type place string

const (
	// plain is beside the test, as its user.
	plain place = "plain"
	// pid1 is as PID 1 of a pid namespace, as root.
	pid1 place = "pid1"
	// unprivileged is as PID 1 of a pid namespace that an ordinary user made
	// ("unshare -Urpf --mount-proc"): root there, and nobody outside.
	unprivileged place = "unprivileged"
)

func places() []place { return []place{plain, pid1, unprivileged} }

// isPID1 says that what is launched there is PID 1.
func (p place) isPID1() bool { return p != plain }

// isRoot says that what is launched there is root with all that goes with it.
func (p place) isRoot() bool { return p != unprivileged && os.Geteuid() == 0 }

// uid is whom the files belong to that are written there.
func (p place) uid() int {
	if p == unprivileged && os.Geteuid() == 0 {
		return nobody
	}
	return os.Geteuid()
}

// need skips the test where the place can't be had.
func (p place) need(t testing.TB) {
	t.Helper()
	if p == plain {
		return
	}
	if p == pid1 && os.Geteuid() != 0 {
		t.Skip("only root makes a pid namespace alone; unprivileged does it by a user namespace")
	}
	needs(t, "mount", "nsenter")
	cmd := p.command("/", os.Environ(), "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		lacks(t, fmt.Sprintf("cannot make a pid namespace here (%s): %v %s", p, err, out))
	}
}

// command gives the command to be run at the place: in its pid namespace it is
// PID 1. argv[0] is looked up in the PATH.
func (p place) command(dir string, env []string, argv ...string) *exec.Cmd {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if p.isPID1() {
		// As "unshare --pid --fork --mount-proc --kill-child" does.
		attr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
		argv = append([]string{"sh", "-c", `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`, "sh"}, argv...)
	}
	if p == unprivileged {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: p.uid(), Size: 1}}
		gid := os.Getegid()
		if os.Geteuid() == 0 {
			gid = nobody
		}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
		attr.Credential = &syscall.Credential{NoSetGroups: true}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, env, attr
	return cmd
}

// process is a program that runs in the background. Its output is in files, so
// that nobody has to wait for whoever else holds it.
type process struct {
	place  place
	cmd    *exec.Cmd
	argv   []string
	stdout string // the paths of the files
	stderr string
	ended  chan struct{}
}

// launch starts a program at a place. files is the beginning of the paths of
// its output: files.out and files.err. The process is killed when the test ends.
func launch(t testing.TB, p place, dir, files string, env []string, argv ...string) *process {
	t.Helper()
	c, err := p.launch(dir, files, env, argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

func (p place) launch(dir, files string, env []string, argv ...string) (*process, error) {
	c := &process{place: p, argv: argv, stdout: files + ".out", stderr: files + ".err", ended: make(chan struct{})}
	c.cmd = p.command(dir, env, argv...)
	stdout, err := os.OpenFile(c.stdout, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(c.stderr, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	c.cmd.Stdout, c.cmd.Stderr = stdout, stderr
	started := make(chan error)
	go func() {
		// PDEATHSIG is about the thread that forks: it waits, and so lives.
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait()
			close(c.ended)
		}
	}()
	return c, <-started
}

// pid is its pid as the test sees it.
func (c *process) pid() int { return c.cmd.Process.Pid }

// inside is its pid as it sees it itself.
func (c *process) inside() int {
	if c.place.isPID1() {
		return 1
	}
	return c.pid()
}

// signal sends it a signal from outside: in a pid namespace of its own it sees
// no sender.
func (c *process) signal(s syscall.Signal) error { return c.cmd.Process.Signal(s) }

func (c *process) kill() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}

// running tells whether it has not ended yet.
func (c *process) running() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// wait waits for its end and gives its exit code, 128+n for signal n.
func (c *process) wait() (int, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-c.ended:
	case <-timeout.C:
		return 0, fmt.Errorf("%s has not ended in %s", strings.Join(c.argv, " "), patience)
	}
	status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// end waits for its end and fails the test unless it ends with the code.
func (c *process) end(t testing.TB, code int) {
	t.Helper()
	got, err := c.wait()
	if err != nil {
		t.Fatal(err)
	}
	if got != code {
		stderr, _ := os.ReadFile(c.stderr)
		t.Fatalf("%s ended with %d, want %d; stderr:\n%s", strings.Join(c.argv, " "), got, code, stderr)
	}
}

// enter gives the command to be run beside the process, in the namespaces that
// it has for itself.
func (c *process) enter(ctx context.Context, dir string, env []string, argv ...string) *exec.Cmd {
	var own []string
	for kind, flag := range map[string]string{"user": "-U", "pid": "-p", "mnt": "-m", "net": "-n"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.pid(), kind))
		if ours, _ := os.Readlink("/proc/self/ns/" + kind); err == nil && theirs != ours {
			own = append(own, flag)
		}
	}
	if len(own) > 0 && os.Geteuid() != 0 {
		// To become root in there also means to drop groups, which only root may.
		// Who made the user namespace is root in it as he is.
		own = append(own, "--preserve-credentials")
	}
	if len(own) > 0 {
		// The folder is to be what it is in there.
		argv = slices.Concat([]string{"nsenter", "-t", strconv.Itoa(c.pid())}, own, []string{"sh", "-c", `cd "$0" && exec "$@"`, dir}, argv)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	return cmd
}

// outside gives the pid as the test sees it of the living process below c, or c
// itself, that has this pid inside; 0: there is none.
func (c *process) outside(inside int) int {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err != nil {
			continue
		}
		field := func(name string) []string {
			_, rest, _ := strings.Cut(string(status), "\n"+name+":")
			line, _, _ := strings.Cut(rest, "\n")
			return strings.Fields(line)
		}
		state, pids := field("State"), field("NSpid")
		if len(state) == 0 || state[0] == "Z" || state[0] == "X" || len(pids) == 0 || pids[len(pids)-1] != strconv.Itoa(inside) {
			continue
		}
		if !c.place.isPID1() && pid == inside || pid == c.pid() || c.place.isPID1() && len(pids) > 1 && isBelow(pid, c.pid()) {
			return pid
		}
	}
	return 0
}

func isBelow(pid, ancestor int) bool {
	for pid > 1 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
		if pid == ancestor {
			return true
		}
	}
	return false
}

var nextPort atomic.Uint32

// freePort gives a TCP port that nobody else gets: it is below the range from
// which the kernel takes those of clients (ip_local_port_range), and no other
// test of this run gets it.
func freePort() (int, error) {
	const first, count = 20000, 12000
	nextPort.CompareAndSwap(0, uint32(os.Getpid()*37%count)+1)
	for range count {
		port := first + int(nextPort.Add(1)%count)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			l.Close()
			return port, nil
		}
	}
	return 0, errors.New("no TCP port is free")
}
