package control

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func playLock() {
	_, err := LockUID(os.Getenv("CONTROL_TEST_ROOT"), "web")
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestLockUID(t *testing.T) {
	root := t.TempDir()
	lock, err := LockUID(root, "web")
	if err != nil || lock == nil {
		t.Fatalf("got %v, %v", lock, err)
	}
	if _, err := LockUID(root, "web"); !errors.Is(err, ErrTaken) {
		t.Errorf("taken: got %v", err)
	}
	if said, _ := begin(t, role("lock", "CONTROL_TEST_ROOT="+root)); said != ErrTaken.Error() {
		t.Errorf("another process: %q", said)
	}
	other, err := LockUID(root, "api")
	if err != nil {
		t.Errorf("another uid: %v", err)
	}
	other.Release()
	lock.Release()
	if n := files(t, filepath.Join(root, "run")); n != 0 {
		t.Errorf("%d files are left", n)
	}
	(*Lock)(nil).Release()
	if lock, err = LockUID(root, "web"); err != nil {
		t.Errorf("after its release: %v", err)
	}
	lock.Release()
}

func TestLockOfKilledProcess(t *testing.T) {
	root := t.TempDir()
	cmd := role("lock", "CONTROL_TEST_ROOT="+root)
	if said, _ := begin(t, cmd); said != "<nil>" {
		t.Fatal(said)
	}
	if _, err := LockUID(root, "web"); !errors.Is(err, ErrTaken) {
		t.Fatalf("it lives: got %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	lock, err := LockUID(root, "web")
	if err != nil {
		t.Fatalf("it was killed: got %v", err)
	}
	lock.Release()
}

// A link is not followed: a lock is not made elsewhere.
func TestLockIsNoLink(t *testing.T) {
	root := t.TempDir()
	target := filepath.Join(root, "target")
	if err := errors.Join(os.Mkdir(filepath.Join(root, "run"), 0o700), os.Symlink(target, filepath.Join(root, "run", "web.lock"))); err != nil {
		t.Fatal(err)
	}
	if lock, err := LockUID(root, "web"); err == nil {
		t.Errorf("got %v", lock)
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("the link was followed")
	}
}

// Who waits for nothing opens a file that its owner is about to delete: however
// these meet, one alone has the uid.
func TestLockRace(t *testing.T) {
	root := t.TempDir()
	var inside, got atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				lock, err := LockUID(root, "web")
				if errors.Is(err, ErrTaken) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have it", n)
				}
				got.Add(1)
				inside.Add(-1)
				lock.Release()
			}
		})
	}
	wg.Wait()
	if got.Load() == 0 {
		t.Error("nobody ever had it")
	}
	if n := files(t, filepath.Join(root, "run")); n != 0 {
		t.Errorf("%d files are left", n)
	}
}
