package cli

import (
	"fmt"
	"os"
	"strconv"
)

// pidFile is a file that holds the pid of the app while it runs: decimal digits
// and no newline, as forever's.
type pidFile string

// touch makes sure, before anything runs, that the file can be written.
func (f pidFile) touch() error {
	file, err := os.OpenFile(string(f), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the pid file %s: %w", f, reason(err))
	}
	return file.Close()
}

// write puts the pid into the file. Who reads it finds this pid or the one
// before, never a part.
func (f pidFile) write(pid int) error {
	next := string(f) + ".new"
	err := os.WriteFile(next, []byte(strconv.Itoa(pid)), 0o644)
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
