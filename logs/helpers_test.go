package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child names what the test binary does instead of testing.
const child = "LOGS_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(child) {
	case "":
		os.Exit(m.Run())
	case "lines":
		linesToStderr()
	case "tail":
		err = tailToStdout()
	case "double":
		err = doubleStdout()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startChild runs the script by /bin/sh as a run of the app.
func startChild(t testing.TB, out *Output, script string) (pid int) {
	t.Helper()
	f := out.Files()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: f[:],
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitChild waits for the child and fails the test unless it exits with 0.
func waitChild(t testing.TB, pid int) {
	t.Helper()
	for {
		var ws syscall.WaitStatus
		switch _, err := syscall.Wait4(pid, &ws, 0, nil); {
		case err == syscall.EINTR:
		case err != nil:
			t.Fatal(err)
		case ws != 0:
			t.Fatalf("the child ended with status %#x", ws)
		default:
			return
		}
	}
}

// run is one run of the app, from its start to its end.
func run(t testing.TB, out *Output, script string) {
	t.Helper()
	waitChild(t, startChild(t, out, script))
}

// std are the descriptors that evermore is started with: files in a folder.
type std struct {
	fds   [3]int
	files [3]*os.File
}

func newStd(t testing.TB) *std {
	t.Helper()
	s := &std{}
	dir := t.TempDir()
	for i, name := range []string{os.DevNull, filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")} {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		s.set(i, f)
	}
	return s
}

func (s *std) set(i int, f *os.File) {
	s.files[i] = f
	s.fds[i] = int(f.Fd())
}

// pipe replaces stdout by a pipe and returns the end that is read.
func (s *std) pipe(t testing.TB) *os.File {
	t.Helper()
	r, w := blockingPipe(t)
	s.set(1, w)
	return r
}

// blockingPipe is os.Pipe without O_NONBLOCK on the end that is written.
func blockingPipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(int(w.Fd()), false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// reading reads all of r; the result comes when r has ended.
func reading(r io.Reader) <-chan []byte {
	all := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(r)
		all <- b
	}()
	return all
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually waits for what must become true; only a test that fails takes long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// leakCheck fails the test if it leaves a goroutine or a descriptor behind. It
// is to be called first.
func leakCheck(t testing.TB) {
	t.Helper()
	// The runtime's poller opens its descriptors with the first pipe and keeps them.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	running, before := goroutines(), descriptors(t)
	t.Cleanup(func() {
		eventually(t, "the goroutines of the test have ended", func() bool { return goroutines() <= running })
		if after := descriptors(t); after != before {
			t.Errorf("descriptors before: %s, after: %s", before, after)
		}
	})
}

// goroutines is how many there are but for those of lumberjack's, which never end.
func goroutines() int {
	n := runtime.NumGoroutine()
	all := make([]byte, 1<<20)
	return n - bytes.Count(all[:runtime.Stack(all, true)], []byte("lumberjack%2ev2.(*Logger).millRun("))
}

func descriptors(t testing.TB) string {
	t.Helper()
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, name := range names {
		if name == strconv.Itoa(int(dir.Fd())) {
			continue
		}
		what, _ := os.Readlink("/proc/self/fd/" + name)
		s += fmt.Sprintf("%s=%s ", name, what)
	}
	return s
}

// smallDisk mounts a file system of the size, in bytes.
func smallDisk(t testing.TB, size int) string {
	t.Helper()
	dir := t.TempDir()
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); {
	case errors.Is(err, unix.EPERM):
		missing(t, "a mount needs root: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill makes the file that long.
func fill(t testing.TB, path string, size int) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// failures collects what Options.Failed is told.
type failures struct {
	mu   sync.Mutex
	told []string
}

func (f *failures) failed(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, filepath.Base(name)+": "+err.Error())
}

func (f *failures) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint(f.told)
}

// reexec is the test binary as the child of that name.
func reexec(name string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+name)
	return cmd
}

// needs skips the test where the tool is missing, and fails it in CI.
func needs(t testing.TB, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		missing(t, "%s is not installed", tool)
	}
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// lines splits b, which must end with a newline unless it is empty.
func lines(t testing.TB, b []byte) []string {
	t.Helper()
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("the last line has no end: %q", b[max(len(b)-80, 0):])
	}
	var all []string
	for line := range bytes.Lines(b) {
		all = append(all, string(bytes.TrimSuffix(line, newline)))
	}
	return all
}
