package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// notifier sees changes by inotify(7): one watch for each folder.
type notifier struct {
	view
	files *fsnotify.Watcher

	folders map[string]*folder // by path
	// owners are the same folders. The kernel knows a folder by its inode and
	// has but one watch for it, however many symlinks lead there.
	owners map[inode]*folder
	gen    int // of the last rescan

	full   bool // the limit of watches was told
	stale  bool // a rescan waits for settle: rules differ, or a symlink has to take over
	settle *time.Timer
}

// folder is one that has a watch.
type folder struct {
	path     string
	id       inode
	root     *root
	parent   *folder // nil for a root
	children map[string]*folder
	gen      int  // of the rescan that last saw it
	aliased  bool // other paths lead here, too
}

func newNotifier(v view) *notifier {
	return &notifier{
		view:    v,
		folders: map[string]*folder{},
		owners:  map[inode]*folder{},
		settle:  newStoppedTimer(),
	}
}

// run watches until the context ends.
func (n *notifier) run(ready chan<- struct{}) {
	files, err := fsnotify.NewWatcher()
	if err != nil {
		close(ready)
		if errors.Is(err, syscall.EMFILE) {
			err = errors.New("no inotify instances are left, raise fs.inotify.max_user_instances (or the limit of open files), or use --watch-poll")
		}
		n.warn(fmt.Errorf("cannot watch files: %w", err))
		return
	}
	n.files = files
	defer files.Close()
	overflow := make(chan struct{}, 1)
	go drainErrors(files.Errors, overflow)

	for _, r := range n.roots {
		n.open(r)
	}
	close(ready)
	for {
		select {
		case <-n.ctx.Done():
			return
		case e := <-files.Events:
			n.handle(e)
		case <-overflow:
			// What happened is lost, only that something did is known.
			n.rescan()
			n.found(n.roots[0].path)
		case <-n.settle.C:
			n.settled()
		}
	}
}

// drainErrors passes on that the kernel's queue overflowed. The other errors are
// of watches that ended by themselves. It takes each at once: fsnotify sends some
// while it holds the lock that Add and Remove need.
func drainErrors(errs <-chan error, overflow chan<- struct{}) {
	for err := range errs {
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			continue
		}
		select {
		case overflow <- struct{}{}:
		default:
		}
	}
}

// open watches the root, and what can bring it back where it is missing.
func (n *notifier) open(r *root) {
	for n.ctx.Err() == nil {
		anchor := ""
		if fi, err := os.Lstat(r.path); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			anchor = filepath.Dir(r.path)
		}
		n.anchor(r, anchor)
		n.load(r)
		err := n.walk(r, r.path, nil, false)
		if !missing(err) {
			r.absent = false
			return
		}
		n.absent(r, err)
		next := r.path
		for !isFolder(filepath.Dir(next)) {
			next = filepath.Dir(next)
		}
		n.anchor(r, filepath.Dir(next))
		if !isFolder(next) {
			return
		}
		// It came before the anchor was in place.
	}
}

// anchor watches the folder dir for the sake of what leads to r; nothing else in
// it counts. An empty dir ends that.
func (n *notifier) anchor(r *root, dir string) {
	before := r.anchor
	r.anchor = dir
	if dir != "" {
		if err := n.files.Add(dir); err != nil {
			n.refuseWatch(dir, err)
		}
	}
	if before != dir {
		n.release(before)
	}
}

// release ends the watch of a path that nobody needs any more.
func (n *notifier) release(path string) {
	anchors := slices.ContainsFunc(n.roots, func(r *root) bool { return r.anchor == path })
	if path != "" && n.folders[path] == nil && !anchors {
		// It may have ended with its folder.
		_ = n.files.Remove(path)
	}
}

// walk watches the folder at path and all below it, and with tell reports what
// it finds there: it came before the watch. The error is that of path itself.
func (n *notifier) walk(r *root, path string, parent *folder, tell bool) error {
	type step struct {
		path   string
		parent *folder
	}
	top, err := n.enter(r, path, parent)
	if top == nil {
		return err
	}
	list := []*folder{top}
	var folders, links []step
	for n.ctx.Err() == nil {
		for _, f := range list {
			entries, err := os.ReadDir(f.path)
			if err != nil {
				n.refuse(f.path, err)
			}
			for _, e := range entries {
				child := filepath.Join(f.path, e.Name())
				link := e.Type()&fs.ModeSymlink != 0 && r.follows(child)
				if !e.IsDir() && !link && !tell || n.ignored(r, child, e.IsDir() || link) {
					continue
				}
				if tell {
					n.found(child)
				}
				if link {
					links = append(links, step{child, f})
				} else if e.IsDir() {
					folders = append(folders, step{child, f})
				}
			}
		}
		list = list[:0]
		// Symlinks last: a folder is known by its own path where it has one.
		next := &folders
		if len(folders) == 0 {
			next = &links
		}
		last := len(*next) - 1
		if last < 0 {
			return nil
		}
		s := (*next)[last]
		*next = (*next)[:last]
		if f, _ := n.enter(r, s.path, s.parent); f != nil {
			list = append(list, f)
		}
	}
	return nil
}

// enter watches one folder. It returns no folder where that could not be, and
// neither a folder nor an error where it is watched by another path.
func (n *notifier) enter(r *root, path string, parent *folder) (*folder, error) {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		n.refuse(path, err)
		return nil, err
	}
	id := inodeOf(fi)
	f := n.folders[path]
	if f != nil && f.id != id {
		n.forget(f)
		f = nil
	}
	if owner := n.owners[id]; owner != nil && owner != f {
		owner.aliased = true
		return nil, nil
	}
	// Also where there is a watch: it may be one of an earlier folder that had
	// the same inode.
	if err := n.files.Add(path); err != nil {
		n.refuseWatch(path, err)
		return nil, err
	}
	delete(n.refused, path)
	if f == nil {
		f = &folder{path: path, id: id, root: r, parent: parent, children: map[string]*folder{}}
		n.folders[path] = f
		n.owners[id] = f
		if parent != nil {
			parent.children[path] = f
		}
	}
	f.gen = n.gen
	return f, nil
}

// refuseWatch is refuse for an error of inotify_add_watch(2).
func (n *notifier) refuseWatch(path string, err error) {
	if !errors.Is(err, syscall.ENOSPC) {
		n.refuse(path, err)
		return
	}
	if !n.full {
		n.full = true
		n.warn(fmt.Errorf("cannot watch folder %q and those after it: no inotify watches are left, raise fs.inotify.max_user_watches, ignore more, or use --watch-poll", path))
	}
}

// forget ends the watch of a folder and all below it.
func (n *notifier) forget(f *folder) {
	for _, child := range f.children {
		n.forget(child)
	}
	delete(n.folders, f.path)
	delete(n.owners, f.id)
	if f.parent != nil {
		delete(f.parent.children, f.path)
	}
	n.release(f.path)
	if f.aliased {
		n.stale = true
		n.settle.Reset(quiet)
	}
}

// rescan makes the watches fit what is there and what is to be ignored. A folder
// may have to wait until the watch by its former path has gone.
func (n *notifier) rescan() {
	for n.stale = true; n.stale && n.ctx.Err() == nil; {
		n.stale = false
		n.gen++
		for _, r := range n.roots {
			n.open(r)
		}
		for _, f := range n.folders {
			if f.gen != n.gen {
				n.forget(f)
			}
		}
	}
}

// settled does what waits until a burst of events is over.
func (n *notifier) settled() {
	for _, r := range n.roots {
		// A folder that is some process's working directory goes without a sign
		// until that process ends: IN_DELETE_SELF is sent when the inode is freed.
		f := n.folders[r.path]
		if f == nil {
			continue
		}
		if fi, err := os.Stat(r.path); err != nil || inodeOf(fi) != f.id {
			n.reopen(r, true)
		}
	}
	if n.stale {
		n.rescan()
	}
}

// reopen follows a change of the root itself or of a folder on the way to it; gone
// says that what was there is there no more.
func (n *notifier) reopen(r *root, gone bool) {
	f := n.folders[r.path]
	if f != nil && gone {
		n.forget(f)
	}
	n.open(r)
	if now := n.folders[r.path]; f != now {
		n.found(r.path)
	}
}

// handle takes one event.
func (n *notifier) handle(e fsnotify.Event) {
	path := filepath.Clean(e.Name)
	parent := n.folders[filepath.Dir(path)]
	if e.Op == fsnotify.Chmod {
		switch {
		case parent == nil:
		case n.refused[path]:
			_ = n.walk(parent.root, path, parent, false)
		case touched(path) && !n.ignored(parent.root, path, false):
			n.found(path)
		}
		return
	}
	gone := e.Has(fsnotify.Remove | fsnotify.Rename)
	if !e.Has(fsnotify.Write) {
		for _, r := range n.roots {
			if path == r.path || r.anchor != "" && strings.HasPrefix(r.path, path+"/") {
				n.reopen(r, gone)
			}
		}
	}
	if gone {
		delete(n.refused, path)
		if f := n.folders[path]; f != nil && f.parent != nil {
			n.forget(f)
		}
	}
	// The anchors' own events, and late ones of folders that are watched no more.
	if parent == nil {
		return
	}
	r := parent.root
	if parent.path == r.path {
		if filepath.Base(path) == ignoreFile {
			n.stale = true
		}
		if n.stale || gone {
			n.settle.Reset(quiet)
		}
	}
	folder := gone
	if e.Has(fsnotify.Create) {
		if fi, err := os.Lstat(path); err != nil {
			folder = true
		} else {
			folder = fi.IsDir() || fi.Mode()&fs.ModeSymlink != 0 && r.follows(path)
		}
	}
	if n.ignored(r, path, folder) {
		return
	}
	n.found(path)
	if e.Has(fsnotify.Create) && folder {
		_ = n.walk(r, path, parent, true)
	}
}

// touchTime is how far apart the times of a file may be that touch(1) has set
// both, one by the kernel's coarse clock.
const touchTime = 5 * time.Millisecond

// touched tells touch(1) from chmod(1), which the kernel reports alike: chmod
// changes the time of the inode's last change alone.
func touched(path string) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	return time.Unix(st.Ctim.Unix()).Sub(time.Unix(st.Mtim.Unix())).Abs() <= touchTime
}
