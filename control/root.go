// Package control holds what evermore's commands know of the supervisors that
// run: the folder of their state and the record that each keeps there.
package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// RootVariable names the root to a daemon, whose environment is that of its app. It
// comes before all others.
const RootVariable = "EVERMORE_DAEMON_ROOT"

// Root gives the folder of evermore's state, as an absolute path: the first of
// EVERMORE_ROOT, FOREVER_ROOT, ~/.evermore, XDG_RUNTIME_DIR/evermore,
// /run/evermore and /dev/shm/evermore-UID that can be written. What is missing is
// created with mode 0700.
//
// Others must not be able to plant a record or a socket there: a folder is
// passed over when it is a symbolic link, belongs to somebody else, or can be
// written by others.
func Root() (string, error) {
	return firstUsable(candidates(os.Getenv, "/run", "/dev/shm"))
}

// IsLasting tells whether a root is one that a reboot leaves alone, or that the
// user has named.
func IsLasting(root string) bool {
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", "/dev/shm"} {
		if dir != "" && strings.HasPrefix(root, dir+"/") {
			for _, name := range []string{RootVariable, "EVERMORE_ROOT", "FOREVER_ROOT"} {
				if os.Getenv(name) != "" && Unused() == nil {
					return true
				}
			}
			return false
		}
	}
	return true
}

// Unused tells why the root is not the folder that a variable names; nil: it is, or
// none does.
func Unused() error {
	for _, name := range []string{RootVariable, "EVERMORE_ROOT", "FOREVER_ROOT"} {
		path := os.Getenv(name)
		if path == "" {
			continue
		}
		abs, err := filepath.Abs(path)
		if err == nil {
			_, err = firstUsable([]candidate{{abs, true}})
		}
		if err != nil {
			root, other := Root()
			if other != nil {
				return nil // nothing can be used, and that is told by itself
			}
			return fmt.Errorf("%s is not used, but %s: %w", name, root, err)
		}
		return nil
	}
	return nil
}

// candidate is a folder that may be the root.
type candidate struct {
	path string
	// named says that the user named it: then its parents are created too, as
	// forever does. The others need a parent that is there: a HOME that does not
	// exist is no place to keep anything.
	named bool
}

func candidates(getenv func(string) string, run, shm string) []candidate {
	var found []candidate
	add := func(path string, named bool) {
		// A relative path without a working directory (it was deleted) leads nowhere.
		if abs, err := filepath.Abs(path); err == nil {
			found = append(found, candidate{abs, named})
		}
	}
	for _, name := range []string{RootVariable, "EVERMORE_ROOT", "FOREVER_ROOT"} {
		if v := getenv(name); v != "" {
			add(v, true)
		}
	}
	// Root with the HOME of another user (sudo -E) leaves that one's files alone.
	if home := getenv("HOME"); home != "" && isOwn(home) {
		add(filepath.Join(home, ".evermore"), false)
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		add(filepath.Join(dir, "evermore"), false)
	}
	add(filepath.Join(run, "evermore"), false)
	add(filepath.Join(shm, "evermore-"+strconv.Itoa(os.Geteuid())), false)
	return found
}

// isOwn tells whether a folder is not another user's.
func isOwn(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) != nil || st.Uid == uint32(os.Geteuid()) || os.Geteuid() != 0
}

func firstUsable(candidates []candidate) (string, error) {
	var reasons []error
	for _, c := range candidates {
		err := c.create()
		if err == nil {
			err = writable(c.path)
		}
		if err == nil {
			return c.path, nil
		}
		reasons = append(reasons, err)
	}
	return "", fmt.Errorf("no folder for evermore's state can be used (EVERMORE_ROOT names one): %w", joined(reasons))
}

func (c candidate) create() error {
	if c.named {
		if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
			return err
		}
	}
	return mkdir(c.path)
}

// mkdir makes a folder for this user alone, unless something is there.
func mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// private tells why a folder is not one that this user alone can write; nil: it is.
func private(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("%s is a symbolic link", path)
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", path)
	case info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()):
		return fmt.Errorf("%s belongs to another user", path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others", path)
	}
	return nil
}

func writable(path string) error {
	if err := private(path); err != nil {
		return err
	}
	// A read-only file system shows here too.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// joined is errors.Join on one line.
func joined(errs []error) error {
	all := errs[0]
	for _, err := range errs[1:] {
		all = fmt.Errorf("%w; %w", all, err)
	}
	return all
}
