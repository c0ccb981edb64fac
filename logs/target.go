package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"evermore/nofollow"
)

// target is an open descriptor that the app's output goes to.
type target struct {
	fd      int
	name    string
	id      fileID
	regular bool
	size    int64 // when it was opened
	// borrowed says that the open file description is not evermore's own: it is
	// never emptied and its flags stay as they are.
	borrowed bool
	path     string      // what the name led to, absolute; empty unless the file can be opened anew
	aliases  []int       // those of stdout and stderr that are this file, as a daemon's are
	rotation *rotation   // nil: the file may grow without limit
	failing  atomic.Bool // the last write failed
}

// fileID tells whether two descriptors are of the same file.
type fileID struct{ dev, ino uint64 }

// borrow gives a descriptor that evermore was started with as a target.
func borrow(fd int, name string) (*target, error) {
	t := &target{fd: fd, name: name, borrowed: true}
	if err := t.stat(); err != nil {
		return nil, err
	}
	return t, nil
}

// openTarget opens the path for appending, creates it where it is missing and
// waits for nobody.
//
// A FIFO is opened for reading too (fifo(7)): then neither the open nor a write
// needs a reader, and one that leaves and comes back misses nothing but what the
// FIFO had no room for, while the app waits. /dev/stdout and its like are the
// descriptors themselves: to open them again fails on sockets and on what another
// user owns, and would give a file a second offset.
func openTarget(path string) (*target, error) {
	if fd, ok := standardDescriptor(path); ok {
		return duplicate(fd, path)
	}
	// O_NONBLOCK: neither a FIFO nor a serial line is waited for. O_NOCTTY: a
	// terminal does not become that of PID 1.
	const flags = unix.O_CREAT | unix.O_APPEND | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	fd, err := nofollow.Open(path, flags|unix.O_WRONLY)
	if err == nil && isNamedPipe(fd) {
		_ = unix.Close(fd)
		err = unix.ENXIO
	}
	if err == unix.ENXIO { // a FIFO, or nothing that can be opened
		fd, err = nofollow.Open(path, flags&^unix.O_CREAT|unix.O_RDWR)
	}
	if err != nil {
		return nil, err
	}
	var t *target
	if err = unix.SetNonblock(fd, false); err == nil {
		t = &target{fd: fd, name: path}
		err = t.stat()
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil && t.regular {
		if t.path, err = filepath.Abs(real); err != nil {
			t.path = ""
		}
	}
	return t, nil
}

// OpenFile opens a log for appending, as Open does: it waits for no reader of a
// FIFO.
func OpenFile(path string) (*os.File, error) {
	t, err := openTarget(path)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(t.fd), path), nil
}

// Replace opens a file to be written in place of what it holds, with the care of
// Open: it waits for no reader of a FIFO, and as root it follows no link of another
// user's.
func Replace(path string) (*os.File, error) {
	fd, err := nofollow.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// standardDescriptor reads the names that Linux has for a process's own
// descriptors.
func standardDescriptor(path string) (int, bool) {
	switch path {
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if n, found := strings.CutPrefix(path, dir); found {
			fd, err := strconv.ParseUint(n, 10, 31)
			return int(fd), err == nil
		}
	}
	return 0, false
}

func duplicate(fd int, name string) (*target, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, fmt.Errorf("descriptor %d is open for reading only", fd)
	}
	fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return borrow(fd, name)
}

// isNamedPipe tells a FIFO from a pipe(2), which can be opened by its name in
// /proc.
func isNamedPipe(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO &&
		unix.Fstatfs(fd, &fs) == nil && fs.Type != unix.PIPEFS_MAGIC
}

func (t *target) stat() error {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return err
	}
	t.id = fileID{dev: st.Dev, ino: st.Ino}
	t.regular = st.Mode&unix.S_IFMT == unix.S_IFREG
	t.size = st.Size
	return nil
}

// write gives all of p to the target, or tells why not.
func (t *target) write(p []byte) error {
	if t.rotation != nil {
		return t.rotation.write(p)
	}
	_, err := writeAll(t.fd, p)
	return err
}

// moved says that the file's name leads elsewhere by now, or nowhere.
func (t *target) moved() (bool, error) {
	var at, open unix.Stat_t
	if err := unix.Fstat(t.fd, &open); err != nil {
		return false, err
	}
	switch err := unix.Stat(t.path, &at); {
	case err == unix.ENOENT:
		return true, nil
	case err != nil:
		return false, err
	}
	return at.Dev != open.Dev || at.Ino != open.Ino, nil
}

// reopen makes the descriptor, and those that were of the same file, lead to the
// file that has the name now. Whoever writes to one meanwhile meets the one file or
// the other: dup3(2) is atomic.
func (t *target) reopen() error {
	next, err := openTarget(t.path)
	if err != nil {
		return err
	}
	defer unix.Close(next.fd)
	for _, alias := range t.aliases {
		if err := dup3(next.fd, alias, 0); err != nil {
			return err
		}
	}
	return dup3(next.fd, t.fd, unix.O_CLOEXEC)
}

func dup3(from, to, flags int) error {
	for {
		// EBUSY: another thread is just being given this number.
		if err := unix.Dup3(from, to, flags); err != unix.EINTR && err != unix.EBUSY {
			return err
		}
	}
}

// reopenIfMoved opens the file anew unless its name still leads to it.
func (t *target) reopenIfMoved() error {
	if t.rotation != nil {
		t.rotation.mu.Lock()
		defer t.rotation.mu.Unlock()
	}
	moved, err := t.moved()
	if moved {
		err = t.reopen()
	}
	return err
}

// same says that both are of one file.
func (t *target) same(other *target) bool { return t.id == other.id }
