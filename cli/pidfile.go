package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pidFile is a file that holds the pid of the app while it runs: decimal digits
// and no newline, as forever's.
type pidFile string

// touch makes sure, before anything runs, that the file can be written.
func (f pidFile) touch() error {
	file, err := os.OpenFile(string(f), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the pid file %s: %w", f, reason(err))
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("cannot write the pid file %s: it is no regular file", f)
	}
	return nil
}

// write puts the pid into the file. Who reads it finds this pid or the one
// before, never a part. The app may own the folder: what it puts in the way of the
// new file is neither followed nor waited for.
func (f pidFile) write(pid int) error {
	next := string(f) + ".new"
	_ = os.Remove(next)
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err == nil {
		_, err = file.WriteString(strconv.Itoa(pid))
		err = errors.Join(err, file.Close())
	}
	if err == nil {
		err = os.Rename(next, string(f))
	}
	if err != nil {
		_ = os.Remove(next)
		return fmt.Errorf("cannot write the pid file %s: %w", f, reason(err))
	}
	return nil
}

func (f pidFile) remove() { _ = os.Remove(string(f)) }
