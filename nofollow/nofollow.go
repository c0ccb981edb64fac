// Package nofollow opens files for a root that works in folders of other users: none of
// them leads it to another file by a symbolic link.
package nofollow

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Open opens a path, and creates a file with mode 0644 where the flags say so. Where root has to pass a folder that another user can
// change, it follows no symbolic link from there on: an app with a user of its own
// must not lead evermore to another file.
func Open(path string, flags int) (int, error) {
	dir, rest := unix.AT_FDCWD, path
	how := unix.OpenHow{Flags: uint64(flags)}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o644
	}
	if os.Geteuid() == 0 && flags&unix.O_ACCMODE != unix.O_RDONLY {
		if safe, below, found := foreignFolder(path); found {
			fd, err := unix.Open(safe, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			defer unix.Close(fd)
			dir, rest = fd, below
			how.Resolve = unix.RESOLVE_NO_SYMLINKS
		}
	}
	for {
		fd, err := unix.Openat2(dir, rest, &how)
		if err == unix.ENOSYS || err == unix.EPERM && how.Resolve == 0 { // before Linux 5.6, or kept away by seccomp
			if how.Resolve != 0 {
				flags |= unix.O_NOFOLLOW
			}
			fd, err = unix.Openat(dir, rest, flags, 0o644)
		}
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// foreignFolder finds the first folder on the way to a file that somebody else than
// root can change, and what of the path is below it. Links in root's own folders
// are followed, as the kernel does.
func foreignFolder(path string) (folder, below string, found bool) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", "", false
	}
	folder = "/"
	rest := strings.Split(strings.TrimPrefix(abs, "/"), "/")
	for range maxSteps {
		var st unix.Stat_t
		if unix.Stat(folder, &st) != nil {
			return "", "", false // the open says why
		}
		// In a sticky folder such as /tmp nobody replaces what is another's.
		if st.Uid != 0 || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return folder, strings.Join(rest, "/"), true
		}
		if len(rest) == 1 {
			return "", "", false
		}
		name := rest[0]
		rest = rest[1:]
		link, err := os.Readlink(filepath.Join(folder, name))
		switch {
		case name == "..":
			folder = filepath.Dir(folder)
		case err != nil:
			folder = filepath.Join(folder, name)
		default:
			if filepath.IsAbs(link) {
				folder = "/"
			}
			rest = append(strings.FieldsFunc(link, func(r rune) bool { return r == '/' }), rest...)
		}
	}
	return "", "", false
}

// maxSteps is more than the kernel goes along a path.
const maxSteps = 4096

// Folder is the folder of a file, whatever somebody puts in its place meanwhile.
type Folder struct {
	fd      int
	path    string
	name    string
	foreign bool
}

// Parent opens the folder of a file with the care of Open. Whoever opens one closes it.
func Parent(path string) (*Folder, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &Folder{path: abs, name: filepath.Base(abs)}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	safe, below := filepath.Dir(abs), ""
	if os.Geteuid() == 0 {
		if folder, rest, found := foreignFolder(abs); found {
			safe, below, f.foreign = folder, rest, true
		}
	}
	if f.fd, err = unix.Open(safe, flags, 0); err != nil {
		return nil, err
	}
	names := strings.Split(below, "/")
	for _, name := range names[:len(names)-1] {
		fd, err := unix.Openat(f.fd, name, flags|unix.O_NOFOLLOW, 0)
		_ = unix.Close(f.fd)
		if err != nil {
			return nil, err
		}
		f.fd = fd
	}
	return f, nil
}

// Close closes the folder.
func (f *Folder) Close() { _ = unix.Close(f.fd) }

// Path leads to the file in this very folder; it is what the file was called where
// nobody else can change the way to it.
func (f *Folder) Path() string {
	if !f.foreign {
		return f.path
	}
	return Through + strconv.Itoa(f.fd) + "/" + f.name
}

// Through begins a Path that is not what the file was called.
const Through = "/proc/self/fd/"

// Stat describes the file, or the link in its place.
func (f *Folder) Stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(f.fd, f.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// Unlink removes the file, or the link in its place.
func (f *Folder) Unlink() error { return unix.Unlinkat(f.fd, f.name, 0) }

// Change calls change with a path to the file and what it is. It is an error where that
// is not this user's alone: a link to it may have been put there.
func (f *Folder) Change(change func(path string, st unix.Stat_t) error) error {
	fd, err := unix.Openat(f.fd, f.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != uint32(os.Geteuid()) || st.Nlink != 1 {
		return fmt.Errorf("%s was replaced", f.path)
	}
	return change(Through+strconv.Itoa(fd), st)
}
