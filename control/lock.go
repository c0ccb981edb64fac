package control

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrTaken says that another supervisor has the uid.
var ErrTaken = errors.New("the uid is taken")

// Lock is a uid that is this supervisor's alone. The kernel lets go of it when the
// process ends, however it does (flock(2)).
type Lock struct {
	file *os.File
	path string
}

// LockUID takes a uid in a root; ErrTaken: another process has it. Where a file
// system has no locks it gives nil: then nothing keeps two apart.
func LockUID(root, uid string) (*Lock, error) {
	dir := filepath.Join(root, "run")
	if err := mkdir(dir); err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, uid+".lock"))
}

// lockFile takes the lock of a file, which it makes: ErrTaken, or nil, as LockUID.
func lockFile(path string) (*Lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == unix.EWOULDBLOCK:
			file.Close()
			return nil, ErrTaken
		case err != nil:
			file.Close()
			return nil, nil
		}
		// Who had it may have deleted the file before it was locked here.
		var ours, there unix.Stat_t
		if unix.Fstat(int(file.Fd()), &ours) == nil && unix.Stat(path, &there) == nil && ours.Ino == there.Ino && ours.Dev == there.Dev {
			return &Lock{file, path}, nil
		}
		file.Close()
	}
}

// Release lets others have the uid; a nil Lock has nothing to release.
func (l *Lock) Release() {
	if l == nil {
		return
	}
	_ = os.Remove(l.path)
	l.file.Close()
}
