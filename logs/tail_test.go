package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tailOf gives what Tail does, without following.
func tailOf(t testing.TB, n int, paths ...string) ([]string, error) {
	t.Helper()
	var got []string
	err := Tail(t.Context(), paths, TailOptions{N: n}, func(file int, line []byte) error {
		got = append(got, fmt.Sprintf("%d:%s", file, line))
		return nil
	})
	return got, err
}

func write(t testing.TB, path, s string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t testing.TB, path, s string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

func TestTailGivesTheLastLines(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", 3*chunk+1)
	for _, test := range []struct {
		content string
		n       int
		want    []string
	}{
		{"", -1, nil},
		{"", 5, nil},
		{"a\nb\nc\n", -1, []string{"a", "b", "c"}},
		{"a\nb\nc\n", 0, nil},
		{"a\nb\nc", 0, nil},
		{"a\nb\nc\n", 2, []string{"b", "c"}},
		{"a\nb\nc\n", 3, []string{"a", "b", "c"}},
		{"a\nb\nc\n", 100, []string{"a", "b", "c"}},
		{"a\nb\nc", 1, []string{"c"}},
		{"a\nb\nc", 2, []string{"b", "c"}},
		{"\n\n\n", -1, []string{"", "", ""}},
		{"a\n\n\n", 2, []string{"", ""}},
		{"\n", 1, []string{""}},
		{"==> file <==\n\x00\xff\r\n", 5, []string{"==> file <==", "\x00\xff\r"}},
		{long + "\n" + long + "\nz", 2, []string{long, "z"}},
		{"a\n" + long, 1, []string{long}},
	} {
		write(t, path, test.content)
		got, err := tailOf(t, test.n, path)
		var want []string
		for _, line := range test.want {
			want = append(want, "0:"+line)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("the last %d lines of %.20q: %.20q, %v", test.n, test.content, got, err)
		}
	}
}

// Of a file of a terabyte only its end is read, and of a line any length given.
func TestTailOfALargeFile(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const line = 12 << 20
	for offset, s := range map[int64]string{1 << 40: "\nlast but one\n", 1<<40 + line: "end of the last one"} {
		if _, err := f.WriteAt([]byte(s), offset); err != nil {
			t.Skipf("no file system for large files: %v", err)
		}
	}
	var lengths []int
	err = Tail(t.Context(), []string{path}, TailOptions{N: 2}, func(_ int, line []byte) error {
		if len(lengths) == 1 && !bytes.HasSuffix(line, []byte("\x00end of the last one")) {
			t.Errorf("the last line ends with %q", line[len(line)-20:])
		}
		lengths = append(lengths, len(line))
		return nil
	})
	if want := []int{12, line - 14 + 19}; err != nil || !slices.Equal(lengths, want) {
		t.Errorf("lines of %d bytes, not %d; %v", lengths, want, err)
	}
}

func TestTailOfSeveralFiles(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	a, b, fifo := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "fifo")
	write(t, a, "1\n2\n3")
	write(t, b, "4\n")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, want string }{
		{b, "<nil>"},
		{filepath.Join(dir, "no"), "no such file or directory"},
		{filepath.Join(b, "no"), "not a directory"},
		{fifo, "not a regular file"},
		{dir, "not a regular file"},
	} {
		want := test.want
		if test.path != b {
			want = fmt.Sprintf("cannot read log file %q: %s", test.path, test.want)
		}
		got, err := tailOf(t, 2, a, test.path, b)
		if fmt.Sprint(err) != want {
			t.Errorf("the error is %v, not %s", err, want)
		}
		if len(got) < 3 || got[0] != "0:2" || got[1] != "0:3" || got[len(got)-1] != "2:4" {
			t.Errorf("with %s the lines are %q", test.path, got)
		}
	}
}

func TestTailEnds(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, strings.Repeat("line\n", 3*chunk))
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		n := 0
		err := Tail(t.Context(), []string{path}, TailOptions{N: -1, Follow: follow}, func(int, []byte) error {
			if n++; n == 2 {
				return enough
			}
			return nil
		})
		if err != enough || n != 2 {
			t.Errorf("follow=%t: %v after %d lines", follow, err, n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n = 0
		err = Tail(ctx, []string{path}, TailOptions{N: -1, Follow: follow}, func(int, []byte) error {
			n++
			cancel()
			return nil
		})
		if follow != (err == nil) || !follow && err != context.Canceled || n >= 3*chunk {
			t.Errorf("follow=%t: %v after %d lines", follow, err, n)
		}
	}
}

// follower is a Tail that follows.
type follower struct {
	t      *testing.T
	cancel func()
	ended  chan error

	mu  sync.Mutex
	got []string
}

func followed(t *testing.T, n int, paths ...string) *follower {
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{t: t, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		f.ended <- Tail(ctx, paths, TailOptions{N: n, Follow: true}, func(file int, line []byte) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.got = append(f.got, fmt.Sprintf("%d:%s", file, line))
			return nil
		})
	}()
	// It has seen what is there when it begins to watch.
	eventually(t, "it follows", func() bool { return strings.Contains(descriptors(t), "inotify") })
	return f
}

func (f *follower) lines() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

// gets waits for the lines, after those before, and for no other.
func (f *follower) gets(want ...string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%q are given", want), func() bool { return len(f.lines()) >= len(want) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.got, want) {
		f.t.Fatalf("the lines are %q, not %q", f.got, want)
	}
	f.got = nil
}

// ends ends it, after which it has given the lines.
func (f *follower) ends(want ...string) {
	f.t.Helper()
	f.cancel()
	if err := <-f.ended; err != nil {
		f.t.Error(err)
	}
	if got := f.lines(); !slices.Equal(got, want) {
		f.t.Errorf("at the end the lines are %q, not %q", got, want)
	}
}

func TestTailFollows(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1\n2\nhalf")
	f := followed(t, 2, a, b)
	f.gets("0:2") // the second is not complete
	appendTo(t, a, " a line\n\n")
	f.gets("0:half a line", "0:")
	write(t, b, "new\n")
	f.gets("1:new")
	long := strings.Repeat("x", 5*chunk)
	appendTo(t, b, long)
	appendTo(t, a, "3\n")
	f.gets("0:3")
	appendTo(t, b, "\nthe end")
	f.gets("1:" + long)
	f.ends("1:the end")
}

// With no lines before, the one that has begun is given when it ends.
func TestTailFollowsFromTheEnd(t *testing.T) {
	leakCheck(t)
	a := filepath.Join(t.TempDir(), "a")
	write(t, a, "1\n2")
	f := followed(t, 0, a)
	appendTo(t, a, "3\n")
	f.gets("0:23")
	f.ends()
}

func TestTailFollowsATruncatedFile(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, strings.Repeat("old\n", 100)+"begun")
	f := followed(t, 1, path)
	appendTo(t, path, " and done\nbegun")
	f.gets("0:begun and done")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	appendTo(t, path, " before\nafter\n")
	f.gets("0:begun before", "0:after")

	// It is longer than before when it is looked at.
	next := strings.Repeat("new\n", 200)
	write(t, path, next)
	want := strings.Split(strings.TrimSuffix(strings.ReplaceAll("\n"+next, "\n", "\n0:"), "\n0:"), "\n")[1:]
	f.gets(want...)
	f.ends()
}

func TestTailFollowsAReplacedFile(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	path, old := filepath.Join(dir, "log"), filepath.Join(dir, "old")
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	write(t, path, "1\n")
	f := followed(t, -1, path)
	f.gets("0:1")
	// logrotate's create: the writer goes on in the old file for a while.
	rename(path, old)
	appendTo(t, old, "2\n")
	write(t, path, "")
	appendTo(t, old, "3\nbegun")
	f.gets("0:2", "0:3")
	appendTo(t, path, "4\n")
	f.gets("0:begun", "0:4")
	// Nothing of the old one was read when the new one is there.
	rename(path, old)
	appendTo(t, old, "5\n")
	write(t, path, "6\n")
	f.gets("0:5", "0:6")
	// A file from elsewhere.
	write(t, filepath.Join(dir, "next"), "7\n")
	rename(filepath.Join(dir, "next"), path)
	f.gets("0:7")
	// It vanishes, and somebody has it open.
	open, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(open, "8")
	f.gets("0:8")
	write(t, path, "9\n")
	f.gets("0:9")
	// So does the folder.
	rename(dir, dir+".old")
	defer os.RemoveAll(dir + ".old")
	appendTo(t, filepath.Join(dir+".old", "log"), "10\n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, "11\n")
	f.gets("0:10", "0:11")
	appendTo(t, path, "12\n")
	f.gets("0:12")
	f.ends()
}

func TestTailFollowsALink(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "log")
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	a, b := filepath.Join(dir, "a", "1"), filepath.Join(dir, "b", "2")
	write(t, a, "1\n")
	write(t, b, "")
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	point(a)
	f := followed(t, -1, link)
	f.gets("0:1")
	appendTo(t, a, "2\n")
	f.gets("0:2")
	point(b)
	appendTo(t, b, "3\n")
	f.gets("0:3")
	appendTo(t, b, "4\n")
	f.gets("0:4")
	f.ends()
}

// A writer that never waits, whose file is renamed and truncated under it: every
// line arrives, whole and once.
func TestTailLosesNothing(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "log")
	random := rand.New(rand.NewPCG(1, 2))
	write(t, path, "")
	f := followed(t, -1, path)
	n := 0
	for round := range 60 {
		w, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for range random.IntN(200) {
			s := fmt.Sprintf("%d %s\n", n, strings.Repeat("x", random.IntN(2000)))
			n++
			for len(s) > 0 {
				cut := 1 + random.IntN(len(s))
				if _, err := w.WriteString(s[:cut]); err != nil {
					t.Fatal(err)
				}
				s = s[cut:]
			}
		}
		if round%2 == 0 {
			if err := os.Rename(path, fmt.Sprintf("%s.%d", path, round)); err != nil {
				t.Fatal(err)
			}
		} else {
			eventually(t, "the lines are given", func() bool { return len(f.lines()) == n })
			if err := w.Truncate(0); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
	}
	eventually(t, "the lines are given", func() bool { return len(f.lines()) >= n })
	for i, line := range f.lines() {
		if !strings.HasPrefix(line, fmt.Sprintf("0:%d ", i)) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	f.cancel()
	<-f.ended
}

// Where the user has no inotify instance left, the files are looked at.
func TestTailWithoutInotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	cmd := reexec("tail")
	cmd.Env = append(cmd.Env, "LOG="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	w.Close()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		missing(t, "no user namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		appendTo(t, path, want)
		if n, err := r.Read(b); err != nil || string(b[:n]) != want {
			t.Fatalf("read %q, %v; %s", b[:n], err, &stderr)
		}
	}
	r.Close()
	appendTo(t, path, "nobody reads\n")
	if err := cmd.Wait(); !isExit(err) || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("it ended with %v: %s", err, &stderr)
	}
}

func isExit(err error) bool {
	_, ok := errors.AsType[*exec.ExitError](err)
	return ok
}

func tailToStdout() error {
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
		return err
	}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC); err != unix.EMFILE {
		return fmt.Errorf("inotify_init1 gave %d, %v", fd, err)
	}
	return Tail(context.Background(), []string{os.Getenv("LOG")}, TailOptions{N: -1, Follow: true}, func(_ int, line []byte) error {
		_, err := writeAll(1, append(line, '\n'))
		return err
	})
}

func TestTailGivesAnEndlessLineInPieces(t *testing.T) {
	for data, want := range map[string]string{
		"1234":             "[]",
		"1234\n":           "[1234]",
		"12345\n":          "[1234 5]",
		"123456789\n12\n":  "[1234 5678 9 12]",
		"12345678\n\n1234": "[1234 5678 ]",
	} {
		for size := 1; size <= len(data); size++ {
			var got []string
			s := splitter{limit: 4, emit: func(line []byte) error {
				got = append(got, string(line))
				return nil
			}}
			for b := range slices.Chunk([]byte(data), size) {
				if err := s.write(b); err != nil {
					t.Fatal(err)
				}
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%q by %d: %q, not %s", data, size, got, want)
			}
		}
	}
}

// Lines are the same wherever blocks end, and the last ones those that a split of
// all finds.
func FuzzTail(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), []byte{1, 2}, uint8(2))
	f.Add([]byte("\n\n"), []byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, data, sizes []byte, n uint8) {
		want := bytes.Split(data, newline)
		if len(want[len(want)-1]) == 0 {
			want = want[:len(want)-1]
		}
		var got [][]byte
		s := splitter{limit: longestLine, emit: func(line []byte) error {
			got = append(got, bytes.Clone(line))
			return nil
		}}
		rest := data
		for _, size := range sizes {
			k := min(int(size), len(rest))
			if err := s.write(bytes.Clone(rest[:k])); err != nil {
				t.Fatal(err)
			}
			rest = rest[k:]
		}
		if err := errors.Join(s.write(rest), s.flush()); err != nil {
			t.Fatal(err)
		}
		same := func(a, b []byte) bool { return bytes.Equal(a, b) }
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%q became %q", data, got)
		}

		block := make([]byte, 1+len(sizes))
		begin, err := lastLines(t.Context(), bytes.NewReader(data), int64(len(data)), int(n), block)
		if err != nil {
			t.Fatal(err)
		}
		last := bytes.Join(want[max(0, len(want)-int(n)):], newline)
		if n == 0 {
			last = data[bytes.LastIndexByte(data, '\n')+1:]
		}
		if tail := data[begin:]; !bytes.Equal(last, tail) && !bytes.Equal(append(last, '\n'), tail) {
			t.Errorf("the last %d lines of %q: %q", n, data, tail)
		}
	})
}
