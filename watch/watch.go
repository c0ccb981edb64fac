// Package watch makes file changes into one debounced event.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// quiet is how long nothing must have changed before what has is told.
	quiet = 100 * time.Millisecond
	// longest is how long changes that never pause are gathered.
	longest = time.Second
)

// Options say what is watched.
type Options struct {
	// Dirs are the folders, absolute and at least one, each with all that is
	// below it. One that is missing is watched as soon as it is there.
	Dirs []string
	// Ignore are the globs of --watch-ignore. The lines of the file
	// .foreverignore in each of Dirs follow them.
	Ignore []string
	// All undoes the default ignores: node_modules, dot files and dot folders.
	All bool
	// Files are absolute paths that never trigger: the logs, the pid file.
	Files []string
	// Poll is how often to look where inotify is blind: in bind mounts of
	// virtual machines, on network file systems. 0 uses inotify.
	Poll time.Duration
}

// Change is what changed since the last one.
type Change struct {
	Path  string // the first path
	Count int    // how many different paths, at least 1
}

// Watcher watches until it is closed.
type Watcher struct {
	ready  chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// New begins to watch and does not wait until every folder is: see Ready.
//
// changed is called for each Change, never while it still runs for the one
// before: what happens meanwhile is gathered. warn gets one line for each thing
// that cannot be watched; the rest is. It should return soon. Neither may call
// Close.
//
// The error tells which of Options.Ignore is no glob.
func New(o Options, changed func(Change), warn func(error)) (*Watcher, error) {
	ignore := defaultRules
	if o.All {
		ignore = nil
	}
	ignore, bad := appendRules(slices.Clip(ignore), o.Ignore)
	if len(bad) > 0 {
		return nil, fmt.Errorf("cannot use --watch-ignore: %w", bad[0])
	}

	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{ready: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	paths := make(chan string)
	changes := make(chan Change)
	v := view{
		ctx:     ctx,
		paths:   paths,
		warn:    warn,
		refused: map[string]bool{},
	}
	for _, dir := range o.Dirs {
		v.roots = append(v.roots, &root{path: filepath.Clean(dir), given: ignore})
	}
	for _, file := range o.Files {
		v.never = append(v.never, filepath.Clean(file))
	}
	go func() {
		defer close(paths)
		if o.Poll > 0 {
			(&poller{view: v}).run(w.ready, o.Poll)
		} else {
			newNotifier(v).run(w.ready)
		}
	}()
	go gather(paths, changes)
	go func() {
		defer close(w.done)
		for c := range changes {
			changed(c)
		}
	}()
	return w, nil
}

// Ready is closed once all that can be watched is.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Close ends the watch. When it returns, no callback runs and none will.
func (w *Watcher) Close() {
	w.cancel()
	<-w.done
}

// gather makes paths that come close together into one Change. It always takes
// the next path, however long nobody takes the Change, and ends with paths.
func gather(paths <-chan string, changes chan<- Change) {
	defer close(changes)
	var (
		first    string
		seen     = map[string]struct{}{}
		deadline time.Time
		due      = newStoppedTimer()
		out      chan<- Change // changes, once due
	)
	for {
		select {
		case path, ok := <-paths:
			if !ok {
				return
			}
			if len(seen) == 0 {
				first = path
				deadline = time.Now().Add(longest)
			}
			seen[path] = struct{}{}
			out = nil
			due.Reset(min(quiet, time.Until(deadline)))
		case <-due.C:
			out = changes
		case out <- Change{Path: first, Count: len(seen)}:
			out = nil
			seen = map[string]struct{}{}
		}
	}
}

func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// view is what both ways to see changes share.
type view struct {
	ctx   context.Context
	roots []*root
	never []string // Options.Files
	paths chan<- string
	warn  func(error)
	// refused is what could not be watched or read, each told once.
	refused map[string]bool
}

// found tells that the path changed.
func (v *view) found(path string) { v.paths <- path }

// ignored tells whether changes of a path below r do not count. What is gone may
// have been a folder and is taken for one.
func (v *view) ignored(r *root, path string, isFolder bool) bool {
	return r.ignores(path, isFolder) || slices.ContainsFunc(v.never, func(file string) bool {
		return path == file || filepath.Base(path) == filepath.Base(file) && sameFolder(filepath.Dir(path), filepath.Dir(file))
	})
}

// refuse tells once that what is at path cannot be watched, unless it has just gone.
func (v *view) refuse(path string, err error) {
	if missing(err) || v.refused[path] {
		return
	}
	v.refused[path] = true
	v.warn(fmt.Errorf("cannot watch %q, changes there are not seen: %w", path, cause(err)))
}

// absent tells once that a folder of Options.Dirs is missing.
func (v *view) absent(r *root, err error) {
	if r.absent {
		return
	}
	r.absent = true
	v.warn(fmt.Errorf("cannot watch folder %q before it is there: %w", r.path, cause(err)))
}

// root is one of Options.Dirs.
type root struct {
	path   string
	given  []rule // the default ignores and Options.Ignore
	rules  []rule // given, then those of text
	loaded bool
	text   string // .foreverignore as it was last read
	absent bool   // was told to be
	// anchor is the folder in which the root, or a folder on the way to it, can
	// appear or be replaced; empty while only the root itself is watched.
	anchor string
}

// load reads .foreverignore, and returns whether it differs from before.
func (v *view) load(r *root) bool {
	file := filepath.Join(r.path, ignoreFile)
	text, err := os.ReadFile(file)
	if err != nil && !missing(err) {
		if !v.refused[file] {
			v.refused[file] = true
			v.warn(fmt.Errorf("cannot read %q, it ignores nothing: %w", file, cause(err)))
		}
	} else {
		delete(v.refused, file)
	}
	if r.loaded && string(text) == r.text {
		return false
	}
	r.loaded, r.text = true, string(text)
	rules, bad := appendRules(slices.Clip(r.given), strings.Split(r.text, "\n"))
	for _, err := range bad {
		v.warn(fmt.Errorf("cannot use a line of %q: %w", file, err))
	}
	r.rules = rules
	return true
}

// ignores tells whether the rules ignore a path below r. What is below an
// ignored folder is never looked at.
func (r *root) ignores(path string, isFolder bool) bool {
	rel := path[len(r.path):]
	if rel[0] == '/' {
		rel = rel[1:]
	}
	return ignores(r.rules, path, rel, isFolder)
}

// follows tells whether the symlink leads to a folder that is to be watched.
// One that leads up from r would bring in what nobody asked for.
func (r *root) follows(link string) bool {
	target, err := os.Stat(link)
	if err != nil || !target.IsDir() || filepath.Base(link) == dataLink {
		return false
	}
	for dir := r.path; ; dir = filepath.Dir(dir) {
		if up, err := os.Stat(dir); err == nil && os.SameFile(up, target) {
			return false
		}
		if dir == "/" {
			return true
		}
	}
}

// inode names a folder by whatever path it is reached.
type inode struct{ dev, ino uint64 }

func inodeOf(fi fs.FileInfo) inode {
	st := fi.Sys().(*syscall.Stat_t)
	return inode{st.Dev, st.Ino}
}

func isFolder(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func sameFolder(a, b string) bool {
	fa, err := os.Stat(a)
	if err != nil {
		return false
	}
	fb, err := os.Stat(b)
	return err == nil && os.SameFile(fa, fb)
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// cause is the error without the path, which the line has already.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
