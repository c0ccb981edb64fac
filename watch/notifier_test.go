package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Files that come before the watch of their new folder count, and so does what
// comes later.
func TestNewFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := watch(t, Options{Dirs: []string{dir}})
	var deep []string
	for i := range 20 {
		deep = append(deep, strconv.Itoa(i))
	}
	file := filepath.Join(dir, filepath.Join(deep...), "app.js")
	write(t, file)
	if c := w.next(); c.Path != filepath.Join(dir, "0") || c.Count+w.rest() <= len(deep) {
		t.Errorf("%+v was told, not all", c)
	}
	write(t, file)
	w.expect(file)
}

func TestMovedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to, out := filepath.Join(dir, "from"), filepath.Join(dir, "to"), filepath.Join(t.TempDir(), "out")
	write(t, filepath.Join(from, "sub/a.js"))
	w := watch(t, Options{Dirs: []string{dir}})
	must(t, os.Rename(from, to))
	if c := w.next(); c != (Change{from, 4}) { // from, to, and the two in it
		t.Errorf("%+v was told", c)
	}
	write(t, filepath.Join(to, "sub/a.js"))
	w.expect(filepath.Join(to, "sub/a.js"))

	must(t, os.Rename(to, out))
	w.expect(to)
	write(t, filepath.Join(out, "sub/a.js"))
	write(t, filepath.Join(from, "sub/b.js"))
	if c := w.next(); c.Path != from {
		t.Errorf("%+v was told", c)
	}
	w.rest()

	// A folder that takes another's place.
	write(t, filepath.Join(dir, "new/c.js"))
	must(t, os.RemoveAll(from))
	must(t, os.Rename(filepath.Join(dir, "new"), from))
	w.rest()
	write(t, filepath.Join(from, "c.js"))
	w.expect(filepath.Join(from, "c.js"))
}

// stalled watches dir and is held up until goOn is called.
func stalled(t *testing.T, dir string) (w *watched, goOn func()) {
	t.Helper()
	second := t.TempDir()
	w = &watched{t: t, changes: make(chan Change, 100)}
	stuck, proceed := make(chan struct{}), make(chan struct{})
	var err error
	w.w, err = New(Options{Dirs: []string{dir, second}}, func(c Change) { w.changes <- c }, func(error) {
		close(stuck)
		<-proceed
	})
	must(t, err)
	t.Cleanup(w.w.Close)
	w.ready()
	// It warns when it has looked at dir once more, and has still to look at second.
	must(t, os.WriteFile(filepath.Join(second, ignoreFile), []byte("[a"), 0o600))
	<-stuck
	return w, func() { close(proceed) }
}

// fsnotify reports a watch that it cannot remove while it holds its lock: whoever
// waits for the lock must not be who takes the errors.
func TestMovedAndRemovedAtOnce(t *testing.T) {
	t.Parallel()
	dir, out := inMemory(t), inMemory(t)
	for i := range 50 {
		for j := range 5 {
			mkdir(t, filepath.Join(dir, strconv.Itoa(i), strconv.Itoa(j)))
		}
	}
	w, goOn := stalled(t, dir)
	for i := range 50 {
		name := strconv.Itoa(i)
		must(t, os.Rename(filepath.Join(dir, name), filepath.Join(out, name)))
		must(t, os.RemoveAll(filepath.Join(out, name)))
	}
	goOn()
	w.eventually(filepath.Join(dir, "last"))
}

// A process that has the folder as its working directory keeps the kernel from
// telling that the folder is gone.
func TestRootGoesWhileHeld(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "app")
	write(t, filepath.Join(root, "app.js"))
	w := watch(t, Options{Dirs: []string{root}})
	held, err := os.Open(root)
	must(t, err)
	defer held.Close()
	must(t, os.RemoveAll(root))
	w.warning(root)
	w.next()
	write(t, filepath.Join(root, "app.js"))
	for w.next().Path != root {
	}
	w.eventually(filepath.Join(root, "app.js"))
}

func TestRootComesBackAtOnce(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "app")
	file := filepath.Join(root, "sub/app.js")
	write(t, file)
	w := begin(t, Options{Dirs: []string{root}})
	w.ready()
	for range 20 {
		must(t, os.RemoveAll(root))
		write(t, file)
	}
	w.eventually(file)
	// Between the two it may or may not have been missed.
	for len(w.warned) > 0 {
		<-w.warned
	}
}

func TestOverflow(t *testing.T) {
	t.Parallel()
	queue, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	must(t, err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(queue)))
	must(t, err)
	if limit > 1<<16 {
		t.Skipf("fs.inotify.max_queued_events is %d: too much for a test", limit)
	}

	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "from/sub"))
	w, goOn := stalled(t, dir)
	// Two names in turn: the kernel merges an event with an equal one before it.
	var files [2]*os.File
	for i := range files {
		files[i], err = os.Create(filepath.Join(dir, fmt.Sprint("file", i)))
		must(t, err)
		defer files[i].Close()
	}
	for i := range limit + 8192 { // fsnotify has read some of them already
		_, err := files[i%2].WriteString("x")
		must(t, err)
	}
	write(t, filepath.Join(dir, "new/app.js"))
	must(t, os.Rename(filepath.Join(dir, "from"), filepath.Join(dir, "to")))
	goOn()
	w.next()
	w.eventually(filepath.Join(dir, "after"))
	w.rest()
	for _, file := range []string{"new/app.js", "to/app.js", "to/sub/app.js"} {
		write(t, filepath.Join(dir, file))
		w.expect(filepath.Join(dir, file))
	}
}

// The folder in which a missing one may appear is watched for that, even where
// its own changes are ignored.
func TestMissingRootInAnIgnoredFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "x/app")
	mkdir(t, filepath.Dir(root))
	w := watch(t, Options{Dirs: []string{dir, root}})
	w.warning(root)
	must(t, os.WriteFile(filepath.Join(dir, ignoreFile), []byte("x"), 0o600))
	w.rest()
	write(t, filepath.Join(dir, "x/ignored"))
	mkdir(t, root)
	w.expect(root)
	write(t, filepath.Join(root, "app.js"))
	w.expect(filepath.Join(root, "app.js"))
}

func TestOutOfWatches(t *testing.T) {
	isolate(t, 0, func() {
		limit(t, "max_inotify_watches", "3")
		dir := t.TempDir()
		for i := range 10 {
			mkdir(t, filepath.Join(dir, strconv.Itoa(i), "sub"))
		}
		w := watch(t, Options{Dirs: []string{dir}})
		w.warning("cannot watch", dir, "fs.inotify.max_user_watches", "--watch-poll")
		write(t, filepath.Join(dir, "app.js"))
		w.expect(filepath.Join(dir, "app.js"))
		// What is given back is used.
		for i := range 10 {
			must(t, os.RemoveAll(filepath.Join(dir, strconv.Itoa(i))))
		}
		w.rest()
		mkdir(t, filepath.Join(dir, "new"))
		w.expect(filepath.Join(dir, "new"))
		w.eventually(filepath.Join(dir, "new/app.js"))
	})
}

func TestOutOfInstances(t *testing.T) {
	isolate(t, 0, func() {
		limit(t, "max_inotify_instances", "0")
		w := watch(t, Options{Dirs: []string{t.TempDir()}})
		w.warning("fs.inotify.max_user_instances", "--watch-poll")
	})
}

var errStale = errors.New("stale NFS file handle")

// A network file system that fails for a moment is no change.
func TestPollKeepsWhatItCannotSee(t *testing.T) {
	var warned []error
	p := poller{view: view{refused: map[string]bool{}, warn: func(err error) { warned = append(warned, err) }}}
	p.last = map[string]stamp{"/a": {}, "/a/b": {size: 1}, "/ab": {}}
	for range 2 {
		p.now = map[string]stamp{}
		p.keep("/a", errStale)
		if len(p.now) != 2 || p.now["/a/b"].size != 1 {
			t.Errorf("kept: %v", p.now)
		}
	}
	if len(warned) != 1 || !errors.Is(warned[0], errStale) {
		t.Errorf("warned: %v", warned)
	}
}
