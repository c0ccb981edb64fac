package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"evermore/reaper"
)

// write puts a record into a root as its supervisor would.
func write(t *testing.T, root string, r Record) {
	t.Helper()
	text, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(r.path(root), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestListOfMany(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	var here Record
	if err := here.identify(); err != nil {
		t.Fatal(err)
	}
	const n = 200
	now := time.Now()
	for i := range n {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		r := here
		r.PID, r.HTTP, r.Started = cmd.Process.Pid, fmt.Sprint(n-1-i), now.Add(-time.Duration(i)*time.Second)
		var err error
		if r.StartTime, err = reaper.StartTime(r.PID); err != nil {
			t.Fatal(err)
		}
		write(t, root, r)
		r.StartTime++ // it had the pid before
		write(t, root, r)
	}
	entries, err := listIn(root)
	if err != nil || len(entries) != n {
		t.Fatalf("%d are listed, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.HTTP != fmt.Sprint(i) || e.Status != Running || !e.Alive() {
			t.Fatalf("entry %d is %+v", i, e)
		}
	}
	if left := files(t, filepath.Join(root, "run")); left != n {
		t.Errorf("%d files are left", left)
	}
}

func TestStatus(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := r.identify(); err != nil {
		t.Fatal(err)
	}
	me := &Child{PID: r.PID, StartTime: r.StartTime}
	r.PID, r.StartTime = 1<<22-1, 1 // a supervisor that is dead
	for name, c := range map[string]struct {
		child *Child
		ended *Ended
		want  Status
	}{
		"it left nothing":                   {nil, nil, dead},
		"its app lives":                     {me, nil, Unsupervised},
		"its app's pid is another's":        {&Child{PID: me.PID, StartTime: me.StartTime + 1}, nil, dead},
		"its app had ended":                 {nil, &Ended{Code: 3}, Stopped},
		"its app had ended, another has it": {me, &Ended{Code: 3}, Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			r.Child, r.Ended = c.child, c.ended
			write(t, root, r)
			entries, err := listIn(root)
			if err != nil {
				t.Fatal(err)
			}
			got := dead
			if len(entries) == 1 {
				got = entries[0].Status
				entries[0].Forget()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if _, err := os.Stat(r.path(root)); err == nil {
				t.Error("the record is left")
			}
		})
	}
}

// What is in the way is neither followed, nor waited for, nor deleted.
func TestForeignFilesOfAllKinds(t *testing.T) {
	root := t.TempDir()
	reg, err := Register(Record{}, root)
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Remove()
	dir := filepath.Join(root, "run")
	at := func(name string) string { return filepath.Join(dir, name) }
	mine := filepath.Base(reg.record.path(root))
	huge, err := os.Create(at("huge.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		huge.Truncate(maxRecord+1), huge.Close(),
		unix.Mkfifo(at("fifo.json"), 0o600),
		os.Mkdir(at("folder.json"), 0o700),
		os.Symlink(mine, at("link.json")),
		os.Symlink("nowhere", at("dangling.json")),
		os.Symlink("/dev/zero", at("zero.json")),
		os.WriteFile(at("half.json"), []byte(`{"http":"","uid":"x","pid":1`), 0o600),
		os.WriteFile(at("empty.json"), nil, 0o600),
		os.WriteFile(at("copy-"+mine), []byte(`{"pid":1,"start_time":1}`), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	entries, err := listIn(root)
	if err != nil || len(entries) != 1 || entries[0].PID != os.Getpid() {
		t.Errorf("listed %+v, %v", entries, err)
	}
	if n := files(t, dir); n != before {
		t.Errorf("%d files of %d are left", n, before)
	}
}

// A record in whose writing a supervisor was killed goes away some time later.
func TestUnfinishedRecord(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{".new.json": 0, ".old.json": 2 * unfinishedTime, ".old.txt": 2 * unfinishedTime, "old.json": 2 * unfinishedTime} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := listIn(root); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) != 2 || !strings.HasSuffix(left[0], ".new.json") || !strings.HasSuffix(left[1], ".old.txt") || files(t, dir) != 3 {
		t.Errorf("left are %q", left)
	}
}

// Roots that are not there, or are not this user's alone, hold nothing.
func TestListPassesOver(t *testing.T) {
	root := t.TempDir()
	for _, mode := range []os.FileMode{0o777, 0o770} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "run"), 0o700), os.Chmod(filepath.Join(root, "run"), mode)); err != nil {
			t.Fatal(err)
		}
		if entries, err := listIn(root); err != nil || len(entries) != 0 {
			t.Errorf("mode %o: %+v, %v", mode, entries, err)
		}
		if reg, err := Register(Record{}, root); err == nil {
			t.Errorf("mode %o: registered %+v", mode, reg)
		}
	}
	if entries, err := listIn(filepath.Join(root, "none")); err != nil || len(entries) != 0 {
		t.Errorf("got %+v, %v", entries, err)
	}
}

// Whom there is no descriptor to look at is not taken for dead: the records of
// the dead are deleted.
func TestLivesWithoutDescriptors(t *testing.T) {
	var here Record
	if err := here.identify(); err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	status, alive := here.judge(&here), here.Alive()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if status != Running || !alive {
		t.Errorf("it is %s, alive %v", status, alive)
	}
}

// playFull registers where there is room for one record and no more, and says
// what becomes of it.
func playFull() {
	root, err := Root()
	if err != nil {
		fmt.Println(err)
		return
	}
	reg, err := Register(Record{}, root)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = reg.Update(func(r *Record) { r.Ended = &Ended{Reason: strings.Repeat("x", 16<<10)} })
	if !errors.Is(err, unix.ENOSPC) {
		fmt.Println("the second is written:", err)
		return
	}
	entries, err := listIn(root)
	names, _ := filepath.Glob(filepath.Join(root, "run", "*"))
	hidden, _ := filepath.Glob(filepath.Join(root, "run", ".*"))
	fmt.Println(len(entries), len(names)+len(hidden), err, entries[0].Ended == nil)
}

// A disk that is full leaves the record as it was.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	cmd := exec.Command("unshare", "-rm", "sh", "-c",
		`mount -t tmpfs -o size=8k,mode=700 tmpfs "$EVERMORE_ROOT" && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "CONTROL_TEST_ROLE=full", "EVERMORE_ROOT="+root)
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "unshare") && os.Getenv("CI") == "" {
		t.Skipf("no namespaces here: %s", out)
	}
	if got := strings.TrimSpace(string(out)); err != nil || got != "1 1 <nil> true" {
		t.Errorf("got %q, %v", got, err)
	}
}

// playShort registers, leaves its end on record, and is gone.
func playShort() {
	root, err := Root()
	if err == nil {
		var reg *Registration
		if reg, err = Register(Record{}, root); err == nil {
			err = reg.Update(func(r *Record) { r.Ended = &Ended{Code: 3} })
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Who looks in the moment in which a supervisor leaves its end on record, and dies,
// does not take it for one that left nothing.
func TestListWhileOneEnds(t *testing.T) {
	root := t.TempDir()
	done, looked := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			select {
			case <-done:
				looked <- nil
				return
			default:
				_, err = listIn(root)
			}
		}
		looked <- err
	}()
	const n = 60
	for range n {
		if out, err := role("short", "EVERMORE_ROOT="+root, "GORACE=atexit_sleep_ms=0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	close(done)
	if err := <-looked; err != nil {
		t.Error(err)
	}
	entries, err := listIn(root)
	if err != nil || len(entries) != n {
		t.Errorf("%d of %d are there, %v", len(entries), n, err)
	}
	for _, e := range entries {
		if e.Status != Stopped {
			t.Errorf("%+v", e)
		}
	}
}

// listIn is List of one root.
func listIn(root string) ([]Entry, error) { return list([]candidate{{root, true}}) }
