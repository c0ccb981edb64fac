package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"
)

const (
	// How often the size is looked at of a file that others than pipes of
	// evermore's write to.
	minLook, maxLook = time.Second, 30 * time.Second
	// copyPiece is how much is copied before it is asked whether that is to end.
	copyPiece = 16 << 20
	// backupTime is lumberjack's: it finds by it what it is to compress and remove.
	backupTime = "2006-01-02T15-04-05.000"
)

// rotation keeps one log file to a size. What was in it is in files beside it
// then, which are called NAME-2006-01-02T15-04-05.000.EXT (UTC), with .gz when
// compressed.
//
// A file that only pipes write to, and own lines, is renamed, by lumberjack,
// before it becomes larger than max, once in a millisecond at the most: names tell
// no more. Lines are not cut: one that is longer than max has a file of its own,
// of up to 2*max.
//
// A file that has other writers, who would not open it anew, is copied and
// truncated, as by copytruncate of logrotate(8). What is appended between the
// last read of the copy and the truncation, a few microseconds, is lost, unless
// it comes from a pipe. When evermore is killed meanwhile, a copy that is not
// complete stays, and nothing is missing in the log.
type rotation struct {
	t       *target
	max     int64
	copied  bool    // and truncated, not renamed
	growth  *growth // nil: nobody follows the size
	keeping bool    // old files are compressed or removed
	// backups renames and, in a goroutine that ends with the process, compresses
	// and removes. Its own limit is out of reach: it knows megabytes only, and
	// refuses bytes while it cannot rename.
	backups *lumberjack.Logger
	failed  func(name string, err error)

	mu      sync.Mutex // copiers write, or another file takes its place
	size    int64      // as far as copiers know
	partial bool       // it does not end with a newline
	last    int64      // when it was rotated, as lumberjack's names tell times: in ms
	retry   time.Time  // not before
	failing bool

	// Only the goroutine that looks uses these.
	seen  int64
	at    time.Time
	pause time.Duration
}

func newRotation(t *target, o Options) *rotation {
	return &rotation{
		t:       t,
		max:     o.MaxSize,
		keeping: o.MaxFiles > 0 || o.Compress,
		backups: &lumberjack.Logger{Filename: t.path, MaxSize: math.MaxInt32, MaxBackups: o.MaxFiles, Compress: o.Compress},
		failed:  o.NotRotated,
		size:    t.size,
		seen:    t.size,
		at:      time.Now(),
	}
}

// write gives p to the file and, where it is to be renamed, its rest to the next.
func (r *rotation) write(p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 {
		n := len(p)
		full := !r.copied && r.size+int64(n) > r.max && r.mayRotate(time.Now())
		if full {
			n = r.fits(p)
		}
		done, err := writeAll(r.t.fd, p[:n])
		r.size += int64(done)
		if done > 0 {
			r.partial = p[done-1] != '\n'
		}
		if err != nil {
			return err
		}
		if p = p[n:]; len(p) > 0 {
			r.done(r.rename())
		}
	}
	return nil
}

// fits is how much of p, which does not fit, is to go into the file nevertheless:
// whole lines, and the end of one that has begun.
func (r *rotation) fits(p []byte) int {
	room := max(r.max-r.size, 0)
	if n := bytes.LastIndexByte(p[:room], '\n') + 1; n > 0 {
		return n
	}
	if r.size > 0 && (!r.partial || r.size-r.max >= r.max) {
		return 0
	}
	if n := bytes.IndexByte(p, '\n') + 1; n > 0 {
		return n
	}
	return len(p)
}

// mayRotate says that the file would have a name of its own, and that it is time
// to try again if it failed.
func (r *rotation) mayRotate(now time.Time) bool {
	return now.UnixMilli() > r.last && !now.Before(r.retry)
}

// rename has a new file take the place of the old one. Where somebody else has
// seen to that, it goes on in theirs.
func (r *rotation) rename() error {
	moved, err := r.t.moved()
	if err != nil {
		return err
	}
	if !moved {
		err = r.backups.Rotate()
		// Its descriptor does not append.
		_ = r.backups.Close()
	}
	if reopened := r.t.reopen(); err == nil {
		err = reopened
	}
	r.size = r.fileSize()
	return err
}

// done notes how a rotation went; the first failure of a row is told.
func (r *rotation) done(err error) {
	now := time.Now()
	r.last = now.UnixMilli()
	r.retry = time.Time{}
	if err != nil {
		r.retry = now.Add(maxLook)
	}
	if failing := err != nil; failing != r.failing {
		r.failing = failing
		if failing && r.failed != nil {
			r.failed(r.t.name, err)
		}
	}
}

// look rotates the file if it has become too large and returns when to look
// again.
func (r *rotation) look(stop <-chan struct{}) time.Duration {
	now := time.Now()
	size := r.fileSize()
	grown := size - r.seen
	if size >= r.max {
		if r.copied {
			if err := r.copyAndTruncate(stop); !errors.Is(err, errStopped) {
				r.done(err)
			}
		} else {
			r.renameIfFull()
		}
		size = r.fileSize()
	}
	r.pause = nextLook(r.pause, r.max-size, grown, now.Sub(r.at))
	r.seen, r.at = size, now
	if r.copied && r.failing {
		return maxLook
	}
	return r.pause
}

// renameIfFull counts what others than copiers have written.
func (r *rotation) renameIfFull() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = r.fileSize()
	over := r.size - r.max
	if over >= 0 && (!r.partial || over >= r.max) && r.mayRotate(time.Now()) {
		r.done(r.rename())
	}
}

// fileSize is the size of the file; 0 if it cannot be told.
func (r *rotation) fileSize() int64 {
	var st unix.Stat_t
	if unix.Fstat(r.t.fd, &st) != nil {
		return 0
	}
	return st.Size
}

// nextLook is half the time after which the file, having room for so many bytes
// and having grown by so many in the time since the last look, is full; at the
// most twice the last pause.
func nextLook(pause time.Duration, room, grown int64, since time.Duration) time.Duration {
	next := max(2*pause, minLook)
	if grown > 0 {
		full := float64(max(room, 0)) / float64(grown) * float64(since)
		next = time.Duration(min(float64(next), full/2))
	}
	return min(max(next, minLook), maxLook)
}

// errStopped ends a copy because evermore ends.
var errStopped = errors.New("stopped")

// copyAndTruncate copies the file and empties it, once all is copied.
func (r *rotation) copyAndTruncate(stop <-chan struct{}) (err error) {
	if moved, err := r.t.moved(); err != nil || moved {
		if moved { // the next run writes to the new file
			err = r.t.reopen()
		}
		return err
	}
	// All that follows is done to this file, whatever takes the name.
	src, err := os.OpenFile(r.t.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	// Supervisors may share a file. The lock ends with this descriptor, which the
	// app has not.
	switch err := unix.Flock(int(src.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == unix.EWOULDBLOCK:
		return nil
	case err != nil:
		return fmt.Errorf("cannot lock it: %w", err)
	}
	info, err := src.Stat()
	if err != nil || info.Size() < r.max {
		return err
	}
	dst, err := createBackup(r.t.path, info)
	if err != nil {
		return err
	}
	defer func() {
		dst.Close()
		if err != nil {
			os.Remove(dst.Name())
		}
	}()
	if err := copyAll(dst, src, stop); err != nil {
		return err
	}
	// A machine that loses power is not to lose what is truncated.
	if err := dst.Sync(); err != nil {
		return err
	}
	// What was written in that time, before copiers are to wait.
	if err := copyAll(dst, src, stop); err != nil {
		return err
	}
	r.mu.Lock()
	err = copyAll(dst, src, stop)
	empty := func() error { return src.Truncate(0) }
	switch {
	case err != nil:
	case r.growth != nil:
		err = r.growth.emptied(empty)
	default:
		err = empty()
	}
	r.mu.Unlock()
	if err == nil && r.keeping {
		// lumberjack sees to the old files when it opens the log.
		_, _ = r.backups.Write(nil)
		_ = r.backups.Close()
	}
	return err
}

// copyAll copies until there is nothing more to read.
func copyAll(dst, src *os.File, stop <-chan struct{}) error {
	for {
		_, err := io.CopyN(dst, src, copyPiece)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-stop:
			return errStopped
		default:
		}
	}
}

// createBackup creates the file that lumberjack would give the old log to, with the
// log's mode, whatever the umask, and for root also its owner.
func createBackup(path string, log os.FileInfo) (*os.File, error) {
	ext := filepath.Ext(path)
	name := strings.TrimSuffix(path, ext) + "-" + time.Now().UTC().Format(backupTime) + ext
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, log.Mode().Perm())
	if err != nil {
		return nil, err
	}
	if st, ok := log.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
	_ = f.Chmod(log.Mode().Perm())
	return f, nil
}
