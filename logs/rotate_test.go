package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var backupPattern = regexp.MustCompile(`-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}`)

// backups are the old files of a log, oldest first.
func backups(t testing.TB, path string) []string {
	t.Helper()
	all, err := filepath.Glob(strings.TrimSuffix(path, filepath.Ext(path)) + "-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !backupPattern.MatchString(name) {
			t.Errorf("%s is not a name of lumberjack's", name)
		}
	}
	return all
}

// everything is what was written to a log, the old files included.
func everything(t testing.TB, path string) string {
	t.Helper()
	all := ""
	for _, name := range backups(t, path) {
		all += content(t, name)
	}
	return all + content(t, path)
}

// numbered is a script that writes the lines from to to.
func numbered(from, to int) string {
	return fmt.Sprintf("i=%d; while [ $i -le %d ]; do echo line $i of the app; i=$((i+1)); done", from, to)
}

func wantNumbered(t testing.TB, all string, to int) {
	t.Helper()
	got := lines(t, []byte(all))
	if len(got) != to {
		t.Errorf("%d lines, not %d", len(got), to)
	}
	for i, line := range got {
		if want := fmt.Sprintf("line %d of the app", i+1); line != want {
			t.Fatalf("%q instead of %q", line, want)
		}
	}
}

// looks looks at the sizes now. The goroutine that does so is not running.
func (out *Output) looks() {
	for _, r := range out.looked {
		// A name tells no more than milliseconds.
		for !r.mayRotate(time.Now()) {
			time.Sleep(time.Millisecond)
		}
		r.look(nil)
	}
}

// unlooked opens an Output whose looks are the test's.
func unlooked(t testing.TB, o Options, s *std) *Output {
	t.Helper()
	out := &Output{std: s.fds, log: -1}
	if err := out.open(o); err != nil {
		t.Fatal(err)
	}
	for _, s := range out.streams {
		if s.copier != nil {
			go s.copier.run()
		}
	}
	return out
}

// A file that gets its bytes from a pipe is renamed: no line is lost or cut, no
// file is too large, and mode and O_APPEND stay.
func TestRotationOfPipedFiles(t *testing.T) {
	leakCheck(t)
	const size = 3000
	path := filepath.Join(t.TempDir(), "o.log")
	write(t, path, "old")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	s := newStd(t)
	out, err := open(Options{OutFile: link, MaxSize: size}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.looked) != 0 {
		t.Error("somebody looks at the size")
	}
	const n = 2000 // 100 lines, 2100 bytes in a run
	for i := range 20 {
		run(t, out, numbered(i*n/20+1, (i+1)*n/20))
		// Names tell no more than milliseconds, so it is rotated once in each run.
		last := fmt.Sprintf("line %d of the app\n", (i+1)*n/20)
		eventually(t, "all is copied", func() bool { return strings.HasSuffix(content(t, s.files[1].Name()), last) })
		time.Sleep(2 * time.Millisecond)
	}
	wantNumbered(t, everything(t, path), n)
	old := backups(t, path)
	if len(old) < 5 {
		t.Errorf("%d old files", len(old))
	}
	for _, name := range append(old, path) {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > size || fi.Mode() != 0o640 {
			t.Errorf("%s has %d bytes and mode %v", name, fi.Size(), fi.Mode())
		}
		if b := content(t, name); b != "" && b[len(b)-1] != '\n' {
			t.Errorf("%s ends with %q", name, b[len(b)-10:])
		}
	}
	fd := uintptr(out.streams[0].copier.targets[0].fd)
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil || flags&unix.O_APPEND == 0 || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#o, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the app would inherit the file: %v", err)
	}
	out.Close(long)
	if out.Errors() != 0 {
		t.Errorf("%d errors", out.Errors())
	}
}

// What goes into a full file: whole lines.
func TestRotationCutsNoLine(t *testing.T) {
	for _, test := range []struct {
		size, max int64
		partial   bool
		p         string
		want      int
	}{
		{size: 0, max: 10, p: "1234\n6789\nx\n", want: 10},
		{size: 5, max: 10, p: "1234\n6789\n", want: 5},
		{size: 5, max: 10, p: "12345\n", want: 0},
		{size: 10, max: 10, p: "1\n", want: 0},
		{size: 99, max: 10, p: "1\n", want: 0}, // from before
		{size: 0, max: 10, p: "12345678901\n2\n", want: 12},
		{size: 0, max: 10, p: "12345678901", want: 11},
		{size: 11, max: 10, partial: true, p: "12\n3\n", want: 3},
		{size: 11, max: 10, partial: true, p: "12", want: 2},
		{size: 20, max: 10, partial: true, p: "12\n", want: 0}, // enough of it
		{size: 5, max: 10, partial: true, p: "1\n34567", want: 2},
	} {
		r := &rotation{size: test.size, max: test.max, partial: test.partial}
		if got := r.fits([]byte(test.p)); got != test.want {
			t.Errorf("%d of %q fit after %d of %d bytes (partial=%t), not %d", got, test.p, test.size, test.max, test.partial, test.want)
		}
	}
}

func TestRotationLooksInTime(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		pause       time.Duration
		room, grown int64
		since, want time.Duration
	}{
		{pause: 0, room: 1000, grown: 0, since: 0, want: s},
		{pause: s, room: 1000, grown: 0, since: s, want: 2 * s},
		{pause: 20 * s, room: 1000, grown: 0, since: 20 * s, want: 30 * s},
		{pause: 8 * s, room: 1000, grown: -50, since: 8 * s, want: 16 * s}, // emptied
		{pause: 8 * s, room: 1000, grown: 1000, since: 8 * s, want: 4 * s},
		{pause: 8 * s, room: 1000, grown: 10_000, since: 8 * s, want: s},
		{pause: 8 * s, room: 1000, grown: 1, since: 8 * s, want: 16 * s},
		{pause: 8 * s, room: -1000, grown: 1, since: 8 * s, want: s},
	} {
		if got := nextLook(test.pause, test.room, test.grown, test.since); got != test.want {
			t.Errorf("after %+v: %s", test, got)
		}
	}
}

// A file that the app writes to by itself is copied and emptied, on time, while
// both streams go to it.
func TestRotationOfInheritedFiles(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "o.log")
	out, err := Open(Options{OutFile: path, ErrFile: path, Silent: true, MaxSize: 5000})
	if err != nil {
		t.Fatal(err)
	}
	run(t, out, numbered(1, 300)+" >&2")
	eventually(t, "it is rotated", func() bool { return len(content(t, path)) == 0 })
	run(t, out, numbered(301, 400))
	if got := out.Bytes(Stdout); got != 0 {
		t.Errorf("%d bytes of stdout, which is in the file of both", got)
	}
	out.Close(long)
	wantNumbered(t, everything(t, path), 400)
	if old := backups(t, path); len(old) != 1 {
		t.Errorf("old files: %s", old)
	}
}

// stdout comes by a pipe and loses nothing while the file, which the app has as
// stderr, is copied and emptied again and again.
func TestRotationUnderAPipe(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "l.log")
	out := unlooked(t, Options{LogFile: path, OutFile: filepath.Join(dir, "o"), MaxSize: 20_000}, newStd(t))
	const n = 50_000
	for i := range n / 5000 {
		pid := startChild(t, out, fmt.Sprintf("seq -f 'line %%.0f of the app' %d %d", i*5000+1, (i+1)*5000))
		for range 3 {
			out.looks()
		}
		waitChild(t, pid)
	}
	out.Close(long)
	wantNumbered(t, everything(t, path), n)
	wantNumbered(t, everything(t, filepath.Join(dir, "o")), n)
	if len(backups(t, path)) < 2 || out.Errors() != 0 {
		t.Errorf("%d old files, %d errors", len(backups(t, path)), out.Errors())
	}
}

// evermore's own lines follow a file that is renamed; alone they make it full, too.
func TestRotationWithOwnLines(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "l.log")
	out := unlooked(t, Options{LogFile: path, Timestamps: true, MaxSize: 1000}, newStd(t))
	q := NewQueue(out.Log())
	for i := range 100 {
		fmt.Fprintf(q, "line %d of the app\n", i+1)
		eventually(t, "it is written", q.sinks[0].idle)
		out.looks()
	}
	q.Close(long)
	out.Close(long)
	wantNumbered(t, everything(t, path), 100)
	if len(backups(t, path)) != 1 {
		t.Errorf("old files: %s", backups(t, path))
	}
}

// A daemon's stdout and stderr are its log file already.
func TestRotationOfADaemonsLog(t *testing.T) {
	for _, o := range []Options{{}, {Timestamps: true}, {Silent: true}} {
		t.Run(fmt.Sprintf("timestamps=%t silent=%t", o.Timestamps, o.Silent), func(t *testing.T) {
			leakCheck(t)
			s := newStd(t)
			s.set(2, s.files[1])
			path := s.files[1].Name()
			o.LogFile, o.MaxSize = path, 1000
			out := unlooked(t, o, s)
			q := NewQueue(s.fds[2], out.Log())
			fmt.Fprintln(q, "own line")
			eventually(t, "the own line is written", q.sinks[0].idle)
			run(t, out, "echo app; echo app >&2; head -c 2000 /dev/zero; echo")
			if !o.Silent {
				eventually(t, "the output is written", func() bool { return len(content(t, path)) > 2000 })
			}
			out.looks()
			fmt.Fprintln(q, "own line")
			q.Close(long)
			out.Close(long)
			all := everything(t, path)
			app, old, now := 2, 1, "own line\n"
			if o.Silent {
				app, old, now = 0, 0, now+now
			}
			if strings.Count(all, "own line\n") != 2 || strings.Count(all, "app\n") != app || len(backups(t, path)) != old || content(t, path) != now {
				t.Errorf("old files %s; log %q; all: %.100q", backups(t, path), content(t, path), all)
			}
			if stamped := regexp.MustCompile(`Z - app\n`).MatchString(all); stamped != o.Timestamps {
				t.Errorf("timestamps: %t", stamped)
			}
		})
	}
}

// Old files are compressed, and removed when there are too many.
func TestRotationKeepsSomeFiles(t *testing.T) {
	for _, copied := range []bool{false, true} {
		t.Run(fmt.Sprintf("copied=%t", copied), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "o.log")
			write(t, strings.TrimSuffix(path, ".log")+"-other.log", "of somebody else")
			out := unlooked(t, Options{OutFile: path, Silent: copied, MaxSize: 1000, MaxFiles: 2, Compress: true}, newStd(t))
			for i := range 5 {
				run(t, out, numbered(i*60+1, (i+1)*60))
				eventually(t, "all is written", func() bool { return out.Bytes(Stdout) >= uint64(i+1)*60*18 })
				out.looks()
				time.Sleep(2 * time.Millisecond) // names tell milliseconds
			}
			out.Close(long)
			var old []string
			eventually(t, "there are two compressed files", func() bool {
				old, _ = filepath.Glob(strings.TrimSuffix(path, ".log") + "-2*")
				return len(old) == 2 && strings.HasSuffix(old[0], ".log.gz") && strings.HasSuffix(old[1], ".log.gz")
			})
			all := ""
			for _, name := range old {
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				z, err := gzip.NewReader(f)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				all += string(b)
			}
			all += content(t, path)
			first, last := strings.Index(all, "line "), "line 300 of the app\n"
			if first != 0 || !strings.HasSuffix(all, last) || strings.Count(all, "\n") > 200 {
				t.Errorf("kept: %q", all)
			}
			if content(t, strings.TrimSuffix(path, ".log")+"-other.log") != "of somebody else" {
				t.Error("the file of somebody else was touched")
			}
		})
	}
}

// A full disk keeps no copy: the log stays as it is, that is told once, and done
// when there is room.
func TestRotationOnAFullDisk(t *testing.T) {
	leakCheck(t)
	disk := smallDisk(t, 2<<20)
	path, filler := filepath.Join(disk, "o.log"), filepath.Join(disk, "filler")
	fill(t, filler, 1600<<10)
	var f failures
	out := unlooked(t, Options{OutFile: path, Silent: true, MaxSize: 1000, NotRotated: f.failed}, newStd(t))
	run(t, out, "head -c 300000 /dev/zero")
	for range 2 {
		out.looked[0].retry = time.Time{}
		out.looks()
	}
	if len(content(t, path)) != 300_000 || len(backups(t, path)) != 0 {
		t.Errorf("%d bytes in the log, old files: %s", len(content(t, path)), backups(t, path))
	}
	if got := f.String(); !strings.HasPrefix(got, "[o.log: ") || strings.Count(got, "no space left on device") != 1 {
		t.Errorf("told: %s", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	out.looked[0].retry = time.Time{}
	out.looks()
	run(t, out, "head -c 300000 /dev/zero")
	if got := out.Bytes(Stdout); got != 600_000 {
		t.Errorf("%d bytes, not 600000", got)
	}
	out.looks()
	run(t, out, "echo goes on")
	out.Close(long)
	if got := content(t, path); got != "goes on\n" || len(everything(t, path)) != 600_008 {
		t.Errorf("the log is %q, %d bytes in all", got, len(everything(t, path)))
	}
}

// A file that cannot be renamed, as one that is mounted, gets every byte
// nevertheless.
func TestRotationThatFails(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	path, source := filepath.Join(dir, "o.log"), filepath.Join(dir, "source")
	write(t, path, "")
	write(t, source, "")
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		missing(t, "a mount needs root: %v", err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	var f failures
	s := newStd(t)
	out, err := open(Options{OutFile: path, MaxSize: 1000, NotRotated: f.failed}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		run(t, out, numbered(i*100+1, (i+1)*100))
	}
	out.Close(long)
	wantNumbered(t, content(t, path), 500)
	if got := f.String(); strings.Count(got, "device or resource busy") != 1 {
		t.Errorf("told: %s", got)
	}
}

// A copy ends when evermore does, and nothing is missing then.
func TestRotationIsStopped(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "o.log")
	out := unlooked(t, Options{OutFile: path, Silent: true, MaxSize: 1000}, newStd(t))
	defer out.Close(0)
	if err := os.Truncate(path, copyPiece+1); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	close(stop)
	if err := out.looked[0].copyAndTruncate(stop); !errors.Is(err, errStopped) {
		t.Errorf("the error is %v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != copyPiece+1 || len(backups(t, path)) != 0 {
		t.Errorf("%v, %v, old files: %s", fi, err, backups(t, path))
	}
}

// Two supervisors share a file: one of them rotates it.
func TestRotationOfASharedFile(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "o.log")
	var f failures
	out := unlooked(t, Options{OutFile: path, Silent: true, MaxSize: 1000, NotRotated: f.failed}, newStd(t))
	defer out.Close(0)
	run(t, out, numbered(1, 100))
	other, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	out.looks()
	if len(backups(t, path)) != 0 || f.String() != "[]" {
		t.Errorf("old files: %s; told: %s", backups(t, path), &f)
	}
	other.Close()
	out.looks()
	wantNumbered(t, everything(t, path), 100)
	if len(backups(t, path)) != 1 {
		t.Errorf("old files: %s", backups(t, path))
	}
}

// Without MaxSize somebody else may rotate, by renaming: Reopen finds the new files.
func TestOutputReopens(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	l, o := filepath.Join(dir, "l"), filepath.Join(dir, "o")
	for _, max := range []int64{0, 1 << 20} {
		out, err := open(Options{LogFile: l, OutFile: o, MaxSize: max}, newStd(t).fds)
		if err != nil {
			t.Fatal(err)
		}
		run(t, out, speak)
		eventually(t, "all is written", func() bool { return content(t, o) == "out\n" && len(content(t, l)) == 8 })
		for _, path := range []string{l, o} {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Reopen(); err != nil {
			t.Fatal(err)
		}
		run(t, out, speak)
		out.Close(long)
		for path, want := range map[string]string{o: "out", l: "err out"} {
			got := strings.Fields(content(t, path))
			if len(got) == 2 && got[0] == "out" {
				got[0], got[1] = got[1], got[0]
			}
			if strings.Join(got, " ") != want || content(t, path+".1") == "" {
				t.Errorf("%s has %q", path, got)
			}
			os.Remove(path)
		}
	}
}

// A daemon's own lines go to stderr, which is the log: that is reopened with it.
func TestOutputReopensADaemonsLog(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	s.set(2, s.files[1])
	path := s.files[1].Name()
	out, err := open(Options{LogFile: path}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	for range 2 {
		run(t, out, "echo app")
		if _, err := s.files[2].WriteString("own line\n"); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != "app\nown line\n" {
			t.Errorf("the log is %q", got)
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if err := out.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err, want := out.Reopen(), fmt.Sprintf("cannot open log file %q again: no such file or directory", path); err == nil || err.Error() != want {
		t.Errorf("the error is %v, not %s", err, want)
	}
}

var stampPattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - `)

func TestOutputPutsTimesBeforeLines(t *testing.T) {
	leakCheck(t)
	for _, o := range []Options{
		{},
		{LogFile: "l"},
		{OutFile: "o", Silent: true},
		{OutFile: "o", ErrFile: "o", Silent: true},
	} {
		t.Run(fmt.Sprintf("-l %s -o %s", o.LogFile, o.OutFile), func(t *testing.T) {
			t.Chdir(t.TempDir())
			s := newStd(t)
			o.Timestamps = true
			out, err := open(o, s.fds)
			if err != nil {
				t.Fatal(err)
			}
			if !out.Piped() {
				t.Error("there is no pipe")
			}
			run(t, out, "echo; echo out; head -c 200000 /dev/zero; printf '\\npart'; sleep 0.1; echo ' of a line'; yes '' | head -10000")
			out.Close(long)
			path := s.files[1].Name()
			if o.OutFile != "" {
				path = o.OutFile
			} else if o.LogFile != "" {
				path = o.LogFile
			}
			want := []string{"", "out", strings.Repeat("\x00", 200_000), "part of a line", ""}
			got := lines(t, []byte(content(t, path)))
			if len(got) != 10_004 {
				t.Fatalf("%d lines", len(got))
			}
			for i, line := range got {
				stamp := stampPattern.FindString(line)
				if rest := line[len(stamp):]; stamp == "" || rest != want[min(i, 4)] {
					t.Fatalf("line %d is %.60q", i, line)
				}
			}
			if out.Bytes(Stdout) != 1+4+200_000+1+15+10_000 {
				t.Errorf("%d bytes", out.Bytes(Stdout))
			}
		})
	}
}

// A prompt is seen, and what follows in its line has no time.
func TestOutputPutsATimeBeforeAPrompt(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	s.files[2], s.fds[2] = s.files[1], s.fds[1]
	out, err := open(Options{Timestamps: true}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	path := s.files[1].Name()
	in := func(i int, p string) {
		if _, err := unix.Write(out.streams[i].copier.in, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	in(0, "name? ")
	eventually(t, "the prompt is there", func() bool { return strings.HasSuffix(content(t, path), "Z - name? ") })
	in(0, "again? \n")
	eventually(t, "its line is there", func() bool { return strings.HasSuffix(content(t, path), "Z - name? again? \n") })
	in(1, "err\n")
	out.Close(long)
	got := lines(t, []byte(content(t, path)))
	if len(got) != 2 || stampPattern.ReplaceAllString(got[0], "") != "name? again? " || stampPattern.ReplaceAllString(got[1], "") != "err" {
		t.Errorf("the lines are %q", got)
	}
}

// Nothing is read only to be thrown away.
func TestOutputPutsNoTimesIntoNothing(t *testing.T) {
	out, err := Open(Options{Timestamps: true, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	if out.Piped() {
		t.Error("there is a pipe to /dev/null")
	}
}
