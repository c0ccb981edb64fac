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

// fsnotify reports some errors while it holds its lock: whoever waits for the
// lock must not be who takes the errors.
func TestMovedAndRemovedAtOnce(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), t.TempDir()
	w := watch(t, Options{Dirs: []string{dir}})
	for i := range 200 {
		name := strconv.Itoa(i)
		mkdir(t, filepath.Join(dir, name, "sub"))
		must(t, os.Rename(filepath.Join(dir, name), filepath.Join(out, name)))
		must(t, os.RemoveAll(filepath.Join(out, name)))
	}
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
	changes := make(chan Change, 100)
	stuck, goOn := make(chan struct{}), make(chan struct{})
	w, err := New(Options{Dirs: []string{dir}}, func(c Change) { changes <- c }, func(error) {
		close(stuck)
		<-goOn
	})
	must(t, err)
	defer w.Close()
	<-w.Ready()

	// While the watcher is busy the queue gets more than it holds. Two names in
	// turn: the kernel merges an event with an equal one before it.
	must(t, os.WriteFile(filepath.Join(dir, ignoreFile), []byte("[a"), 0o600))
	<-stuck
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
	file := filepath.Join(dir, "new/app.js")
	write(t, file)
	close(goOn)
	got := &watched{t: t, w: w, changes: changes}
	got.next()
	got.eventually(file)
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
