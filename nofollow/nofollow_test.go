package nofollow

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// root skips a test that only root can do.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root works in folders of other users with more than their rights")
	}
}

// home is a folder of another user's, with d in it.
func home(t *testing.T) (theirs, victim string) {
	t.Helper()
	// Not below a folder of the test's, which may be closed to others.
	top, err := os.MkdirTemp("/tmp", "nofollow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	theirs, victim = filepath.Join(top, "theirs"), filepath.Join(top, "victim")
	for _, dir := range []string{theirs, filepath.Join(theirs, "d"), victim} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{top, theirs, filepath.Join(theirs, "d")} {
		uid := 65534
		if path == top {
			uid = 0
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return theirs, victim
}

// A folder that another user has put a link in place of is not entered.
func TestParentIsNotLedElsewhere(t *testing.T) {
	root(t)
	theirs, victim := home(t)
	file := filepath.Join(theirs, "d", "file")
	before, err := Parent(file)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := os.Rename(filepath.Join(theirs, "d"), filepath.Join(theirs, "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(theirs, "d")); err != nil {
		t.Fatal(err)
	}
	if f, err := Parent(file); err == nil {
		f.Close()
		t.Error("a link is followed")
	}
	if fd, err := Open(file, unix.O_CREAT|unix.O_WRONLY); err == nil {
		unix.Close(fd)
		t.Error("a link is followed")
	}
	// What was opened before is the folder that it was.
	if err := os.WriteFile(before.Path(), nil, 0o600); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(theirs, "old", "file")); err != nil {
		t.Error(err)
	}
	if err := before.Change(func(path string, _ unix.Stat_t) error { return os.Chmod(path, 0o640) }); err != nil {
		t.Error(err)
	}
	if st, err := before.Stat(); err != nil || st.Mode != unix.S_IFREG|0o640 {
		t.Errorf("%o, %v", st.Mode, err)
	}
	if err := before.Unlink(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(victim); len(left) > 0 {
		t.Errorf("in the folder of somebody else: %v", left)
	}
}

// What is not what was made there is not changed.
func TestChangeOfAnother(t *testing.T) {
	root(t)
	theirs, victim := home(t)
	secret := filepath.Join(victim, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(theirs, "d", "file")
	f, err := Parent(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chmod := func(path string, _ unix.Stat_t) error { return os.Chmod(path, 0o666) }
	for name, put := range map[string]func() error{
		"a link":      func() error { return os.Symlink(secret, path) },
		"a hard link": func() error { return os.Link(secret, path) },
		"their own":   func() error { _ = os.WriteFile(path, nil, 0o600); return os.Chown(path, 65534, 65534) },
		"nothing":     func() error { return nil },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		err := f.Change(func(path string, st unix.Stat_t) error {
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return syscall.ELOOP
			}
			return chmod(path, st)
		})
		if err == nil {
			t.Errorf("%s is changed", name)
		}
		os.Remove(path)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// In folders that nobody else can change, a path is what it was.
func TestOwnFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := Parent(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Path() != path {
		t.Errorf("%s is called %s", path, f.Path())
	}
	if _, err := f.Stat(); err != unix.ENOENT {
		t.Error(err)
	}
	if _, err := Parent(filepath.Join(path, "below")); err == nil {
		t.Error("what is not there is opened")
	}
}
