package logs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"evermore/nofollow"
)

const (
	// longestLine keeps a file without newlines, such as a core dump, from taking
	// all memory.
	longestLine = 256 << 20
	// markSize is how many of the bytes that were read last are compared before
	// reading goes on.
	markSize = 64
	// pollInterval is how often Tail looks at files where inotify cannot be had.
	pollInterval = 250 * time.Millisecond
)

// TailOptions says which lines Tail gives.
type TailOptions struct {
	// N is how many lines at the end of each file are given; negative: all.
	N int
	// Follow goes on with what is appended, until the context ends.
	Follow bool
	// Longest bounds what is held of a line; a longer one is given in pieces of
	// that size. 0: 256 MiB.
	Longest int
}

// Tail gives the last lines of each file in turn to emit and, with Follow, what
// is appended to any of them. file is the index in paths. The line has no newline
// and is valid until emit returns; any byte may be in it. What a file ends with
// counts as a line without a newline, too; following, it is given once it is
// complete, or at the end.
//
// A line is given whole, and takes as much memory as it is long; beyond 256 MiB
// it is given in pieces of that size. Of a file of any size only the last lines
// are read, in blocks of 64 KiB, backwards.
//
// Following is by name, as tail -F does. A file that was emptied is read from its
// start; the beginning of a line that was read before continues there, as with
// copytruncate of logrotate(8). A file that was replaced is read to its end before
// the new one, which takes over when something is in it: until then, who has the
// old one open may write to it. A file that is missing is waited for. What is lost:
// bytes that are truncated, or a file that is replaced again, before they could be
// read.
//
// The first error of emit ends it and is returned. A file that cannot be read is
// an error that names it, after the lines of the others unless Follow. An end of
// the context is the ordinary end of following and gives nil; otherwise it gives
// the context's error.
func Tail(ctx context.Context, paths []string, o TailOptions, emit func(file int, line []byte) error) error {
	block := make([]byte, chunk+markSize)
	files := make([]*tailed, len(paths))
	for i, path := range paths {
		files[i] = &tailed{
			path:  path,
			block: block,
			lines: splitter{limit: cmp.Or(o.Longest, longestLine), emit: func(line []byte) error { return emit(i, line) }},
		}
		defer files[i].close()
	}
	err := last(ctx, files, o)
	if !o.Follow || err != nil && ctx.Err() == nil {
		return err
	}
	if err == nil {
		var w folders
		// It fails where the user has too many, or the process too many descriptors.
		if w.watcher, err = fsnotify.NewWatcher(); err == nil {
			defer w.watcher.Close()
		}
		err = follow(ctx, files, &w)
	}
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	for _, f := range files {
		if err := f.lines.flush(); err != nil {
			return err
		}
	}
	return nil
}

// last gives the last lines of each file.
func last(ctx context.Context, files []*tailed, o TailOptions) error {
	var missed error
	for _, f := range files {
		var err error
		f.file, err = openRegular(f.path)
		switch {
		case err == nil:
			if err := f.last(ctx, o); err != nil {
				return err
			}
		case o.Follow && !errors.Is(err, fs.ErrNotExist):
			return f.failed(err)
		case !o.Follow && missed == nil:
			missed = f.failed(err)
		}
	}
	return missed
}

// follow gives what is appended to the files until the context ends.
func follow(ctx context.Context, files []*tailed, w *folders) error {
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w.watcher != nil {
		events, lost = w.watcher.Events, w.watcher.Errors
	}
	due := files // those that may have something to read
	for {
		for len(due) > 0 {
			for _, f := range due {
				if err := f.catchUp(ctx); err != nil {
					return err
				}
			}
			due = nil
			if w.watch(files) {
				due = files // what happened before has no event
			}
		}
		var tick <-chan time.Time
		if w.missing {
			tick = time.After(pollInterval)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			due = files
		case <-lost: //nolint:errcheck // whatever was lost is looked for
			due = files
		case e := <-events:
			if w.gone(e) {
				due = files
				break
			}
			name := filepath.Base(e.Name)
			for _, f := range files {
				// The open file may have another name by now.
				if f.replaced || slices.Contains(f.names, name) {
					due = append(due, f)
				}
			}
		}
	}
}

// folders are those that are watched. Watching a file itself would end with the
// file.
type folders struct {
	watcher *fsnotify.Watcher // nil where inotify cannot be had
	watched []string
	missing bool // not all are watched
}

// watch watches the folders of the files and tells whether one was added.
func (w *folders) watch(files []*tailed) (added bool) {
	w.missing = w.watcher == nil
	if w.missing {
		return false
	}
	for _, f := range files {
		f.locate()
		for _, dir := range f.dirs {
			switch {
			case slices.Contains(w.watched, dir):
			case w.watcher.Add(dir) == nil:
				w.watched = append(w.watched, dir)
				added = true
			default: // it does not exist, or the user has no more watches
				w.missing = true
			}
		}
	}
	return added
}

// gone tells whether the event is the end of a watched folder, which may be there
// again.
func (w *folders) gone(e fsnotify.Event) bool {
	i := slices.Index(w.watched, e.Name)
	if i < 0 || !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
		return false
	}
	w.watched = slices.Delete(w.watched, i, i+1)
	return true
}

// tailed is a file that Tail reads.
type tailed struct {
	path     string
	dirs     []string // where events tell of the file; nil: not known yet
	names    []string // what it is called there
	file     *os.File // nil: there is none
	offset   int64    // where reading goes on
	mark     []byte   // what is before that
	replaced bool     // the path leads to another file, which is empty
	block    []byte
	lines    splitter
}

// openRegular opens a file for reading and waits for nobody who writes to a FIFO.
func openRegular(path string) (*os.File, error) {
	fd, err := nofollow.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *tailed) failed(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // the path is in the sentence
	}
	return fmt.Errorf("cannot read log file %q: %w", f.path, err)
}

func (f *tailed) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// locate finds the folders whose events tell of the file: that of its name and,
// of a symbolic link, that of what it leads to.
func (f *tailed) locate() {
	if f.dirs != nil {
		return
	}
	f.dirs, f.names = []string{filepath.Dir(f.path)}, []string{filepath.Base(f.path)}
	if target, err := filepath.EvalSymlinks(f.path); err == nil && target != filepath.Clean(f.path) {
		f.dirs = append(f.dirs, filepath.Dir(target))
		f.names = append(f.names, filepath.Base(target))
	}
}

// last gives the last lines of the file as it is now.
func (f *tailed) last(ctx context.Context, o TailOptions) error {
	info, err := f.file.Stat()
	if err != nil {
		return f.failed(err)
	}
	switch {
	case o.N == 0 && !o.Follow:
		return nil
	case o.N >= 0:
		f.offset, err = lastLines(ctx, f.file, info.Size(), o.N, f.block)
		if err != nil {
			return f.failed(err)
		}
	}
	if err := f.read(ctx); err != nil || o.Follow {
		return err
	}
	return f.lines.flush()
}

// lastLines tells where the last n lines of the first size bytes begin; with
// n == 0, where the line begins that has no newline yet.
func lastLines(ctx context.Context, r io.ReaderAt, size int64, n int, block []byte) (int64, error) {
	last := n > 0 // the newline at the end of the file begins no line
	n = max(n, 1)
	for end := size; end > 0; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b := block[:min(int64(len(block)), end)]
		begin := end - int64(len(b))
		switch _, err := r.ReadAt(b, begin); {
		case err == io.EOF: // it has been truncated
			return 0, nil
		case err != nil:
			return 0, err
		}
		if last {
			b, last = bytes.TrimSuffix(b, newline), false
		}
		for i := len(b); ; n-- {
			if i = bytes.LastIndexByte(b[:i], '\n'); i < 0 {
				break
			}
			if n == 1 {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return 0, nil
}

// catchUp gives what was added to the file and, when another one has taken its
// name, what is in that.
func (f *tailed) catchUp(ctx context.Context) error {
	// First the new file: once it is there with something in it, nothing more is
	// expected in the old one.
	next := f.successor()
	if f.file != nil {
		if err := f.read(ctx); err != nil {
			if next != nil {
				next.Close()
			}
			return err
		}
	}
	if next == nil {
		return nil
	}
	f.close()
	f.file, f.offset, f.mark, f.dirs = next, 0, nil, nil
	if err := f.lines.flush(); err != nil {
		return err
	}
	return f.read(ctx)
}

// successor opens the file that has taken the name of the open one; nil: none, or
// not yet.
func (f *tailed) successor() *os.File {
	f.replaced = false
	info, err := os.Stat(f.path)
	if err != nil {
		return nil
	}
	if f.file != nil {
		if old, err := f.file.Stat(); err != nil || os.SameFile(old, info) {
			return nil
		}
		if info.Size() == 0 {
			f.replaced, f.dirs = true, nil // a symbolic link may lead into another folder now
			return nil
		}
	}
	next, err := openRegular(f.path)
	if err != nil {
		return nil
	}
	return next
}

// read gives what is in the file after the offset. It ends where the file ended
// when it began, so that each of several files has its turn.
func (f *tailed) read(ctx context.Context) error {
	info, err := f.file.Stat()
	if err != nil {
		return f.failed(err)
	}
	size := info.Size()
	if size < f.offset {
		f.offset, f.mark = 0, nil
	}
	for f.offset < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The mark is read again with what follows it: a file that was emptied and
		// has outgrown the offset since has other bytes there.
		from := f.offset - int64(len(f.mark))
		n, err := f.file.ReadAt(f.block[:min(int64(len(f.block)), size-from)], from)
		if err != nil && err != io.EOF {
			return f.failed(err)
		}
		b := f.block[:n]
		if !bytes.HasPrefix(b, f.mark) {
			f.offset, f.mark = 0, nil
			continue
		}
		data := b[len(f.mark):]
		if len(data) == 0 {
			return nil
		}
		f.offset += int64(len(data))
		f.mark = append(f.mark[:0], b[max(0, n-markSize):]...)
		if err := f.lines.write(data); err != nil {
			return err
		}
	}
	return nil
}

// splitter makes lines of blocks.
type splitter struct {
	emit  func(line []byte) error
	limit int    // a longer line is given in pieces
	part  []byte // the beginning of a line
}

func (s *splitter) write(b []byte) error {
	for len(b) > 0 {
		room := s.limit - len(s.part)
		end := bytes.IndexByte(b[:min(len(b), room+1)], '\n')
		var line []byte
		var next int
		switch {
		case end >= 0:
			line, next = b[:end], end+1
		case len(b) > room:
			line, next = b[:room], room
		default:
			s.part = append(s.part, b...)
			return nil
		}
		if len(s.part) > 0 {
			s.part = append(s.part, line...)
			line = s.part
		}
		if err := s.give(line); err != nil {
			return err
		}
		b = b[next:]
	}
	return nil
}

// flush gives the beginning of a line as a line.
func (s *splitter) flush() error {
	if len(s.part) == 0 {
		return nil
	}
	return s.give(s.part)
}

func (s *splitter) give(line []byte) error {
	err := s.emit(line)
	if s.part = s.part[:0]; cap(s.part) > 1<<20 {
		s.part = nil // such a line is rare
	}
	return err
}
