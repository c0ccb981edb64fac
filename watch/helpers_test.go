package watch

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The environment of test binaries that run once more.
const (
	isolated = "WATCH_TEST_ISOLATED" // in a user namespace of their own
	idling   = "WATCH_TEST_IDLING"   // watching the folder that it names
	polling  = "WATCH_TEST_POLLING"  // the same by looking this often

	// The race detector would let each linger for a second.
	noRaceSleep = "GORACE=atexit_sleep_ms=0"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(idling); dir != "" {
		if err := idle(dir, os.Getenv(polling)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// They wait far more than they compute.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// patience is when a test gives up on what should have long happened.
const patience = 20 * time.Second

// watched is a Watcher and what it tells.
type watched struct {
	t       testing.TB
	w       *Watcher
	changes chan Change
	warned  chan error
}

// watch watches and waits until all is.
func watch(t testing.TB, o Options) *watched {
	t.Helper()
	w := begin(t, o)
	w.ready()
	return w
}

// begin watches. Warnings that nobody expected fail the test.
func begin(t testing.TB, o Options) *watched {
	t.Helper()
	w := &watched{t: t, changes: make(chan Change, 100), warned: make(chan error, 100)}
	var err error
	w.w, err = New(o, func(c Change) { w.changes <- c }, func(err error) { w.warned <- err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.w.Close()
		close(w.warned)
		for err := range w.warned {
			t.Errorf("unexpected warning: %v", err)
		}
	})
	return w
}

func (w *watched) ready() {
	w.t.Helper()
	select {
	case <-w.w.Ready():
	case <-time.After(patience):
		w.t.Fatal("not ready")
	}
}

// next is the next change.
func (w *watched) next() Change {
	w.t.Helper()
	select {
	case c := <-w.changes:
		return c
	case <-time.After(patience):
		w.t.Fatal("no change was told")
		return Change{}
	}
}

// expect takes the next change, which must be of this path alone: nothing that
// was done before counted.
func (w *watched) expect(path string) {
	w.t.Helper()
	if c := w.next(); c != (Change{path, 1}) {
		w.t.Fatalf("%+v was told, not a change of %s alone", c, path)
	}
}

// rest takes changes until there are no more, and returns how many paths they
// had in all.
func (w *watched) rest() (paths int) {
	for {
		select {
		case c := <-w.changes:
			paths += c.Count
		case <-time.After(4 * quiet):
			return paths
		}
	}
}

// warning takes the next warning, which must hold the words.
func (w *watched) warning(words ...string) {
	w.t.Helper()
	select {
	case err := <-w.warned:
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				w.t.Fatalf("the warning %q lacks %q", err, word)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			w.t.Fatalf("more than one line: %q", err)
		}
	case <-time.After(patience):
		w.t.Fatalf("no warning with %q", words)
	}
}

// eventually touches the file until a change is told, and takes no other path
// for it: what happens before a watch is in place is not seen.
func (w *watched) eventually(path string) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		write(w.t, path)
		select {
		case c := <-w.changes:
			if c.Path == path {
				return
			}
		case <-time.After(2 * quiet):
		case <-deadline:
			w.t.Fatalf("no change of %s was told", path)
		}
	}
}

// write makes the file longer, and it and its folders where they are missing.
func write(t testing.TB, path string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	_, err = f.WriteString("x")
	must(t, errors.Join(err, f.Close()))
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o700))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inMemory is a folder on a tmpfs, where there is one: a disk can hold up a test
// for longer than a pause that ends a change.
func inMemory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "watch")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// both runs the test with inotify and with polling.
func both(t *testing.T, test func(t *testing.T, o Options, dir string)) {
	t.Parallel()
	for name, poll := range map[string]time.Duration{"inotify": 0, "poll": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := inMemory(t)
			test(t, Options{Dirs: []string{dir}, Poll: poll}, dir)
		})
	}
}

// isolate runs the test in a user namespace of its own, as the given user there:
// 0 can lower the namespace's limits, others have no capabilities.
func isolate(t *testing.T, uid int, test func()) {
	t.Helper()
	if os.Getenv(isolated) != "" {
		test()
		return
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), isolated+"=1", noRaceSleep)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		missing := "user namespaces cannot be made here"
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s: %v", missing, err)
		}
		t.Skipf("%s: %v", missing, err)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// limit sets a limit of the user namespace: namespaces(7), /proc/sys/user.
func limit(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/user/"+name, []byte(value), 0))
}
