package logs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// speak is an app that writes to both streams.
const speak = "echo out; echo err >&2"

// Where the output goes, for each combination of options, over two runs. Files
// begin with a line "old".
func TestOutputGoesWhereItIsTold(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    string // each file's content, newlines as spaces
		pipes   string // the streams that are copied
		log     bool   // own lines have a file
		bytes   [2]uint64
	}{
		{name: "inherited", want: "stdout: out out; stderr: err err"},
		{name: "-s", options: Options{Silent: true}},
		{
			name: "-l", options: Options{LogFile: "l"}, log: true,
			want: "l: old out err out err",
		},
		{
			name: "-l -s", options: Options{LogFile: "l", Silent: true}, log: true,
			want: "l: old",
		},
		{
			name: "-o", options: Options{OutFile: "o"}, pipes: "stdout",
			want: "o: out out; stdout: out out; stderr: err err", bytes: [2]uint64{8, 0},
		},
		{
			name: "-e", options: Options{ErrFile: "e"}, pipes: "stderr",
			want: "e: err err; stdout: out out; stderr: err err", bytes: [2]uint64{0, 8},
		},
		{
			name: "-o -a", options: Options{OutFile: "o", Append: true}, pipes: "stdout",
			want: "o: old out out; stdout: out out; stderr: err err", bytes: [2]uint64{8, 0},
		},
		{
			name: "-o -s", options: Options{OutFile: "o", Silent: true},
			want: "o: out out", bytes: [2]uint64{8, 0},
		},
		{
			name: "-o -s -a", options: Options{OutFile: "o", Silent: true, Append: true},
			want: "o: old out out", bytes: [2]uint64{8, 0},
		},
		{
			name: "-o -e -s", options: Options{OutFile: "o", ErrFile: "e", Silent: true},
			want: "e: err err; o: out out", bytes: [2]uint64{8, 8},
		},
		{
			name: "-o -e -s to one file", options: Options{OutFile: "o", ErrFile: "o", Silent: true},
			want: "o: out err out err",
		},
		{
			name: "-l -o", options: Options{LogFile: "l", OutFile: "o"}, pipes: "stdout", log: true,
			want: "l: old out err out err; o: out out", bytes: [2]uint64{8, 0},
		},
		{
			name: "-l -o -e", options: Options{LogFile: "l", OutFile: "o", ErrFile: "e"}, pipes: "stdout stderr", log: true,
			want: "e: err err; l: old out err out err; o: out out", bytes: [2]uint64{8, 8},
		},
		{
			name: "-l -o -s", options: Options{LogFile: "l", OutFile: "o", Silent: true}, log: true,
			want: "l: old; o: out out", bytes: [2]uint64{8, 0},
		},
		{
			name: "-l and -o are one file", options: Options{LogFile: "l", OutFile: "./l", Append: true}, log: true,
			want: "l: old out err out err",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			leakCheck(t)
			dir := t.TempDir()
			t.Chdir(dir)
			for _, name := range []string{test.options.LogFile, test.options.OutFile, test.options.ErrFile} {
				if name != "" {
					if err := os.WriteFile(name, []byte("old\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			s := newStd(t)
			out, err := open(test.options, s.fds)
			if err != nil {
				t.Fatal(err)
			}
			if (out.Log() >= 0) != test.log {
				t.Errorf("Log gives %d", out.Log())
			}
			pipes := ""
			for i, name := range Streams() {
				if out.streams[i].copier != nil {
					pipes = strings.TrimSpace(pipes + " " + name)
				}
			}
			if pipes != test.pipes {
				t.Errorf("a pipe for %q, not for %q", pipes, test.pipes)
			}
			script := speak
			if pipes != "" { // the order of two streams is lost in two pipes
				script = "echo out; sleep 0.05; echo err >&2; sleep 0.05"
			}
			run(t, out, script)
			run(t, out, script)
			if pipes != "" {
				eventually(t, "all is copied", func() bool { return out.Bytes(Stdout) == test.bytes[0] && out.Bytes(Stderr) == test.bytes[1] })
			}
			if got := [2]uint64{out.Bytes(Stdout), out.Bytes(Stderr)}; got != test.bytes {
				t.Errorf("Bytes gives %d, not %d", got, test.bytes)
			}
			out.Close(long)
			if out.Errors() != 0 {
				t.Errorf("%d errors", out.Errors())
			}

			got := ""
			for _, name := range []string{"e", "l", "o", s.files[1].Name(), s.files[2].Name()} {
				b, err := os.ReadFile(name)
				if err == nil && len(b) > 0 {
					got += fmt.Sprintf("; %s: %s", filepath.Base(name), strings.Join(strings.Fields(string(b)), " "))
				}
			}
			if got = strings.TrimPrefix(got, "; "); got != test.want {
				t.Errorf("files:\n%s, not\n%s", got, test.want)
			}
		})
	}
}

// Open changes nothing but what it must: the app inherits the very descriptors.
func TestOutputInheritsByDefault(t *testing.T) {
	leakCheck(t)
	out, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	if got := out.Files(); got != [3]uintptr{0, 1, 2} || out.Log() != -1 {
		t.Errorf("the app gets %v, own lines %d", got, out.Log())
	}
	if out.Bytes("stdin") != 0 {
		t.Error("there are bytes of stdin")
	}
}

func TestOutputNamesWhatItCannotOpen(t *testing.T) {
	dir := t.TempDir()
	if l, err := net.Listen("unix", filepath.Join(dir, "socket")); err == nil {
		defer l.Close()
	}
	fill(t, filepath.Join(dir, "old"), 10)
	for _, test := range []struct{ path, want string }{
		{dir, "is a directory"},
		{filepath.Join(dir, "no", "file"), "no such file or directory"},
		{filepath.Join(dir, "old", "file"), "not a directory"},
		{filepath.Join(dir, "socket"), "no such device or address"},
		{"/dev/fd/1000000", "bad file descriptor"},
		{"/dev/fd/x", "no such file or directory"},
	} {
		for name, o := range map[string]Options{
			"-l": {LogFile: test.path},
			"-o": {OutFile: test.path},
			"-e": {OutFile: filepath.Join(dir, "old"), ErrFile: test.path, Silent: true},
		} {
			t.Run(name+" "+test.want, func(t *testing.T) {
				leakCheck(t)
				out, err := Open(o)
				want := fmt.Sprintf("cannot open log file %q: %s", test.path, test.want)
				if err == nil || err.Error() != want || out != nil {
					t.Errorf("the error is %q, not %q", err, want)
				}
			})
		}
	}
	if got := len(content(t, filepath.Join(dir, "old"))); got != 10 {
		t.Error("the other file was emptied although nothing will run")
	}

	r, w := blockingPipe(t)
	defer w.Close()
	_, err := Open(Options{OutFile: fmt.Sprintf("/dev/fd/%d", r.Fd())})
	if err == nil || !strings.Contains(err.Error(), "open for reading only") {
		t.Errorf("a descriptor that cannot be written: %v", err)
	}
}

// Too few descriptors are an error that leaves none open.
func TestOutputWithoutDescriptors(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	s := newStd(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	next, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, s.fds[2]+1) // above it all are free
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	failed := 0
	for free := 0; ; free++ {
		few := unix.Rlimit{Cur: uint64(next + free), Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		out, err := open(Options{OutFile: filepath.Join(dir, "o"), ErrFile: filepath.Join(dir, "e")}, s.fds)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			out.Close(long)
			break
		}
		if !strings.HasSuffix(err.Error(), "too many open files") {
			t.Errorf("with %d descriptors: %v", free, err)
		}
		failed++
	}
	if failed < 3 {
		t.Errorf("%d failures", failed)
	}
}

func TestOutputFileThatMayNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // for files, this thread is somebody else for a while
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Setfsuid(65534)
		defer unix.Setfsuid(0)
	}
	_, err := Open(Options{LogFile: path})
	if want := fmt.Sprintf("cannot open log file %q: permission denied", path); err == nil || err.Error() != want {
		t.Errorf("the error is %v, not %s", err, want)
	}
}

func TestOutputFilesGetTheMode(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "o")
	out, err := Open(Options{OutFile: path, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o640 {
		t.Errorf("mode %v, error %v", fi.Mode(), err)
	}
}

// Of evermore's descriptors the app has 0, 1 and 2, and those block.
func TestOutputLeaksNothingIntoTheApp(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	s := newStd(t)
	out, err := open(Options{LogFile: filepath.Join(dir, "l"), OutFile: filepath.Join(dir, "o"), ErrFile: filepath.Join(dir, "e")}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	needs(t, "readlink")
	own := make(map[string]bool)
	for _, fd := range append(out.owned, out.streams[0].copier.in, out.streams[1].copier.in) {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		own[name] = true
	}
	run(t, out, `for f in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
		[ -e /proc/$$/fd/$f ] && echo $f $(readlink /proc/$$/fd/$f) $(sed -n 's/^flags:[[:space:]]*//p' /proc/$$/fdinfo/$f)
	done; :`)
	out.Close(long)
	seen := 0
	for _, line := range lines(t, []byte(content(t, filepath.Join(dir, "o")))) {
		var fd, flags int
		var name string
		if _, err := fmt.Sscanf(line, "%d %s %o", &fd, &name, &flags); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		switch {
		case fd > 2 && own[name]:
			t.Errorf("the app has descriptor %d, %s", fd, name)
		case fd <= 2 && (flags&unix.O_NONBLOCK != 0 || !own[name]):
			t.Errorf("descriptor %d is %s with flags %#o", fd, name, flags)
		case fd <= 2:
			seen++
		}
	}
	if seen != 2 {
		t.Errorf("the app told of %d descriptors", seen)
	}
}

// Any bytes, in writes of any size, arrive as they are, through all runs, with
// lines that are longer than a pipe.
func TestOutputCopiesEveryByte(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	data := make([]byte, 3<<20+17)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	copy(data[100_000:], bytes.Repeat([]byte{'x'}, 300_000))
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		options Options
	}{
		{"apart", Options{}},
		{"with lines kept whole", Options{ErrFile: filepath.Join(dir, "o")}},
		{"into a pipe that does not block", Options{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStd(t)
			all := reading(s.pipe(t))
			if strings.Contains(test.name, "not block") {
				if err := unix.SetNonblock(s.fds[1], true); err != nil {
					t.Fatal(err)
				}
			}
			o := test.options
			o.OutFile = filepath.Join(dir, "o")
			out, err := open(o, s.fds)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				run(t, out, fmt.Sprintf("cat '%s'; dd if='%s' bs=777 count=500 status=none", source, source))
			}
			out.Close(long)
			s.files[1].Close()
			want := bytes.Repeat(append(bytes.Clone(data), data[:777*500]...), 3)
			if got := <-all; !bytes.Equal(got, want) {
				t.Errorf("stdout got %d bytes that are not the %d", len(got), len(want))
			}
			if got := content(t, o.OutFile); got != string(want) {
				t.Errorf("the file got %d bytes that are not the %d", len(got), len(want))
			}
			if out.Bytes(Stdout) != uint64(len(want)) {
				t.Errorf("%d bytes counted, not %d", out.Bytes(Stdout), len(want))
			}
		})
	}
}

// Lines of stdout and stderr that meet in one file do not cut each other.
func TestOutputKeepsLinesWholeInASharedFile(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "l")
	out := &Output{std: newStd(t).fds, log: -1}
	if err := out.open(Options{LogFile: log, OutFile: filepath.Join(dir, "o"), ErrFile: filepath.Join(dir, "e")}); err != nil {
		t.Fatal(err)
	}
	for _, s := range out.streams {
		s.copier.grace = long // a machine that is busy changes nothing
		go s.copier.run()
	}
	in := func(i int, s string) {
		if _, err := unix.Write(out.streams[i].copier.in, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	logged := ""
	becomes := func(s string) {
		t.Helper()
		logged += s
		eventually(t, fmt.Sprintf("the log ends with %.20q", s), func() bool { return len(content(t, log)) >= len(logged) })
		if got := content(t, log); got != logged {
			t.Fatalf("the log is %q, not %q", got, logged)
		}
	}
	in(0, "a line\nand the beginning of ")
	becomes("a line\n")
	in(1, "a line of stderr\n")
	becomes("a line of stderr\n")
	in(0, "another ")
	in(0, "one\n")
	becomes("and the beginning of another one\n")
	in(0, strings.Repeat("x", chunk-1))
	in(0, "x") // as much as is ever kept
	becomes(strings.Repeat("x", chunk))
	in(0, "\n")
	becomes("\n")

	// Its blocks end anywhere in a line.
	const app = "yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | dd bs=10007 count=300 iflag=fullblock status=none; echo"
	run(t, out, "{ "+app+"; } & { "+app+"; } >&2; wait")
	out.Close(long)
	n := 0
	for _, line := range lines(t, []byte(content(t, log)[len(logged):])) {
		if len(line) != 41 && len(line) != 10007*300%42 {
			t.Fatalf("a line of %d bytes", len(line))
		}
		n += len(line) + 1
	}
	if n != 2*(10007*300+1) {
		t.Errorf("%d bytes", n)
	}
}

// The beginning of a line does not wait for its end, and so a prompt is seen.
func TestOutputShowsAPrompt(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	r := s.pipe(t)
	dir := t.TempDir()
	out, err := open(Options{OutFile: filepath.Join(dir, "l"), ErrFile: filepath.Join(dir, "l")}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	pid := startChild(t, out, "printf 'name? '; exec sleep 1000")
	b := make([]byte, 6)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "name? " {
		t.Errorf("%q, %v", b, err)
	}
	kill(t, pid)
	out.Close(long)
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
}

// A descendant that keeps the pipe open, or floods it, holds up neither the next
// run nor the end.
func TestOutputEndsBeforeWhoHoldsThePipe(t *testing.T) {
	for name, leftover := range map[string]string{
		"quiet": "sleep 1000",
		"loud":  "yes",
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			s := newStd(t)
			s.set(1, s.files[0]) // both swallow what yes has to say: /dev/null and /dev/zero
			out, err := open(Options{OutFile: "/dev/zero", ErrFile: filepath.Join(t.TempDir(), "e")}, s.fds)
			if err != nil {
				t.Fatal(err)
			}
			pid := startChild(t, out, leftover+" & echo $! >&2; exec sleep 1000")
			run(t, out, "echo second run >&2")
			eventually(t, "stderr is copied", func() bool { return strings.Contains(content(t, s.files[2].Name()), "second run\n") })
			out.Close(80 * time.Millisecond)
			if name == "quiet" && out.Errors() != 0 {
				t.Errorf("%d errors", out.Errors())
			}
			kill(t, pid)
		})
	}
}

func TestOutputCloseCountsWhatItGivesUp(t *testing.T) {
	leakCheck(t)
	var failed atomic.Uint64
	c, err := newCopier(nil, false, nil, &failed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(c.in, []byte("too late")); err != nil {
		t.Fatal(err)
	}
	c.close(time.Now())
	c.run()
	c.closeEnds()
	if failed.Load() != 1 || c.bytes.Load() != 0 {
		t.Errorf("%d errors, %d bytes", failed.Load(), c.bytes.Load())
	}
}

// What a dead run left in the pipe is copied before the end.
func TestOutputCloseEmptiesThePipe(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	r := s.pipe(t)
	file := filepath.Join(t.TempDir(), "o")
	out, err := open(Options{OutFile: file}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	// stdout is stuck: two pipes fill, and what is in the hands between them.
	pid := startChild(t, out, "dd if=/dev/zero bs=1000 count=1000 status=none")
	eventually(t, "both pipes are full", func() bool {
		return isFull(t, r) && isFull(t, out.streams[0].copier.reader)
	})
	held := pipeHolds(t, r) + pipeHolds(t, out.streams[0].copier.reader)
	kill(t, pid)
	all := reading(r)
	out.Close(long)
	s.files[1].Close()
	got := <-all
	if want := content(t, file); len(got) < held || string(got) != want || out.Bytes(Stdout) != uint64(len(got)) {
		t.Errorf("%d bytes to stdout, %d into the file, %d counted", len(got), len(want), out.Bytes(Stdout))
	}
}

// A stdout that nobody reads slows the app down and stops nothing else.
func TestOutputWithAStuckReader(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	r := s.pipe(t)
	file := filepath.Join(t.TempDir(), "o")
	out, err := open(Options{OutFile: file, ErrFile: filepath.Join(t.TempDir(), "e")}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	pid := startChild(t, out, "dd if=/dev/zero bs=1000 count=1000 status=none; echo never")
	eventually(t, "both pipes are full", func() bool {
		return isFull(t, r) && isFull(t, out.streams[0].copier.reader)
	})
	run(t, out, "echo goes on >&2")
	eventually(t, "stderr is copied", func() bool { return content(t, s.files[2].Name()) == "goes on\n" })
	if n := pipeHolds(t, r); len(content(t, file)) < n {
		t.Errorf("the file has less than the %d bytes of stdout", n)
	}
	kill(t, pid)
	out.Close(time.Millisecond)
	if out.Errors() != 1 {
		t.Errorf("%d errors, not the stream that was given up", out.Errors())
	}
	r.Close()
	<-out.streams[0].copier.done
	out.closeAll()
}

// os.File ends the process when it writes to fd 1 and nobody reads that.
func TestOutputWithALostReader(t *testing.T) {
	r, w := blockingPipe(t)
	r.Close()
	cmd := reexec("double")
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	file := filepath.Join(t.TempDir(), "o")
	cmd.Env = append(cmd.Env, "OUTFILE="+file)
	err := cmd.Run()
	if err != nil || stderr.String() != "stdout: broken pipe\nfailed\n" || content(t, file) != "one\ntwo\n" {
		t.Errorf("the process told %q and ended with %v; the file holds %q", &stderr, err, content(t, file))
	}
}

func doubleStdout() error {
	out, err := Open(Options{
		OutFile: os.Getenv("OUTFILE"),
		Failed:  func(name string, err error) { fmt.Fprintf(os.Stderr, "%s: %v\n", name, err) },
	})
	if err != nil {
		return err
	}
	f := out.Files()
	for _, word := range []string{"one", "two"} {
		pid, err := syscall.ForkExec("/bin/echo", []string{"echo", word}, &syscall.ProcAttr{Files: f[:]})
		if err != nil {
			return err
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			return err
		}
	}
	out.Close(long)
	if out.Errors() > 0 {
		fmt.Fprintln(os.Stderr, "failed")
	}
	return nil
}

// A full disk costs what it refused, is told once, and works again when there is
// room; stdout and the app do not notice.
func TestOutputOnAFullDisk(t *testing.T) {
	leakCheck(t)
	disk := smallDisk(t, 256<<10)
	filler := filepath.Join(disk, "filler")
	fill(t, filler, 192<<10)
	s := newStd(t)
	all := reading(s.pipe(t))
	file := filepath.Join(disk, "o")
	var f failures
	out, err := open(Options{OutFile: file, Failed: f.failed}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	const run1 = "dd if=/dev/zero bs=1000 count=1000 status=none"
	run(t, out, run1)
	eventually(t, "all is copied", func() bool { return out.Bytes(Stdout) == 1_000_000 })
	eventually(t, "the disk is full", func() bool { return out.Errors() > 0 })
	if got := f.String(); got != "[o: no space left on device]" {
		t.Errorf("told: %s", got)
	}
	if n := len(content(t, file)); n != 64<<10 {
		t.Errorf("%d bytes in the file, although there is room for 65536", n)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	run(t, out, "echo room again")
	eventually(t, "the file goes on", func() bool { return strings.HasSuffix(content(t, file), "room again\n") })
	fill(t, filler, 186<<10)
	run(t, out, run1)
	out.Close(long)
	if got := f.String(); got != "[o: no space left on device o: no space left on device]" {
		t.Errorf("told: %s", got)
	}
	s.files[1].Close()
	if n := len(<-all); n != 2_000_011 {
		t.Errorf("stdout got %d bytes", n)
	}
}

// /dev/full refuses every write.
func TestOutputCountsErrors(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	out, err := open(Options{OutFile: "/dev/full", ErrFile: "/dev/full"}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	run(t, out, speak)
	out.Close(long)
	if out.Errors() != 2 {
		t.Errorf("%d errors, not 2", out.Errors())
	}
	if got := content(t, s.files[1].Name()) + content(t, s.files[2].Name()); got != "out\nerr\n" {
		t.Errorf("stdout and stderr got %q", got)
	}
}

// A FIFO is waited for neither when it is opened nor when its reader leaves.
func TestOutputIntoAFIFO(t *testing.T) {
	leakCheck(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := Open(Options{OutFile: fifo, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	for i := range 3 {
		run(t, out, fmt.Sprintf("echo %d", i))
		r, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, err := r.Read(b); err != nil || string(b[:n]) != fmt.Sprintf("%d\n", i) {
			t.Errorf("read %q, %v", b[:n], err)
		}
		r.Close()
	}
}

// /dev/stdout and its like are the descriptors themselves, with their offset.
func TestOutputIntoADescriptor(t *testing.T) {
	leakCheck(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, "before ")
	for _, dir := range []string{"/dev/fd", "/proc/self/fd"} {
		out, err := Open(Options{OutFile: fmt.Sprintf("%s/%d", dir, f.Fd()), Silent: true})
		if err != nil {
			t.Fatal(err)
		}
		run(t, out, "echo within")
		if out.Bytes(Stdout) != 0 {
			t.Error("the growth of a file that is not evermore's own is counted")
		}
		out.Close(0)
	}
	fmt.Fprint(f, "after")
	if got := content(t, f.Name()); got != "before within\nwithin\nafter" {
		t.Errorf("the file holds %q", got)
	}
	for path, want := range map[string]int{"/dev/stdout": 1, "/dev/stderr": 2} {
		if fd, ok := standardDescriptor(path); fd != want || !ok {
			t.Errorf("%s is %d, %t", path, fd, ok)
		}
	}
}

// What would be written twice to one place is written once.
func TestOutputIntoItself(t *testing.T) {
	leakCheck(t)
	s := newStd(t)
	out, err := open(Options{
		OutFile: fmt.Sprintf("/dev/fd/%d", s.fds[1]),
		LogFile: fmt.Sprintf("/dev/fd/%d", s.fds[2]),
		ErrFile: fmt.Sprintf("/dev/fd/%d", s.fds[2]),
	}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	if out.Log() != -1 {
		t.Error("own lines go to stderr twice")
	}
	run(t, out, speak)
	out.Close(long)
	if got := content(t, s.files[1].Name()); got != "out\n" {
		t.Errorf("stdout got %q", got)
	}
	if got := strings.Fields(content(t, s.files[2].Name())); len(got) != 2 {
		t.Errorf("stderr got %q", got)
	}
}

// An anonymous pipe that has a name is not held open for reading, as a FIFO is:
// the app is to hear that the reader has gone.
func TestOutputIntoANamelessPipe(t *testing.T) {
	leakCheck(t)
	r, w := blockingPipe(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), link); err != nil {
		t.Fatal(err)
	}
	out, err := Open(Options{OutFile: link, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	r.Close()
	run(t, out, "trap '' PIPE; ! echo x 2>/dev/null")
}

// A file that was emptied meanwhile (copytruncate of logrotate) counts on.
func TestOutputBytesOfAnEmptiedFile(t *testing.T) {
	leakCheck(t)
	file := filepath.Join(t.TempDir(), "o")
	if err := os.WriteFile(file, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := Open(Options{OutFile: file, Silent: true, Append: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(0)
	for i, want := range []uint64{6, 12} {
		run(t, out, "echo 12345")
		if got := out.Bytes(Stdout); got != want {
			t.Errorf("run %d: %d bytes, not %d", i, got, want)
		}
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := out.Bytes(Stdout); got != 12 {
		t.Errorf("an empty file makes it %d bytes", got)
	}
}
