package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// long is a time that no test that succeeds takes.
const long = time.Minute

func TestQueueWritesEachLineToEachDestination(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	var fds []int
	for _, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	q := NewQueue(fds[0], -1, fds[1])
	want := ""
	for i := range 100 {
		line := fmt.Sprintf("line %d\n", i)
		if n, err := q.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("Write gave %d, %v", n, err)
		}
		want += line
	}
	if _, err := q.Write([]byte("without an end")); err != nil {
		t.Fatal(err)
	}
	want += "without an end\n"
	q.Close(long)
	for _, name := range []string{"a", "b"} {
		if got := content(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if q.Lost() != 0 {
		t.Errorf("%d lines lost", q.Lost())
	}
	q.Write([]byte("too late\n"))
	if q.Lost() != 2 {
		t.Errorf("%d lines lost after Close, not one in each destination", q.Lost())
	}
}

// A destination that nobody reads takes nothing from the other one, nor from
// whom writes; when it is read again it is told what it missed.
func TestQueueWithAStuckDestination(t *testing.T) {
	for _, nonblocking := range []bool{false, true} {
		t.Run(fmt.Sprintf("nonblocking=%t", nonblocking), func(t *testing.T) {
			leakCheck(t)
			const n = 10_000
			r, w := blockingPipe(t)
			if err := unix.SetNonblock(int(w.Fd()), nonblocking); err != nil {
				t.Fatal(err)
			}
			good, err := os.Create(filepath.Join(t.TempDir(), "good"))
			if err != nil {
				t.Fatal(err)
			}
			defer good.Close()
			q := NewQueue(int(w.Fd()), int(good.Fd()))
			q.tellLosses(func(lost uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lost) })

			tail := strings.Repeat("x", 90)
			for i := range n {
				fmt.Fprintf(q, "%d %s\n", i, tail)
				if i%100 == 0 { // the good destination is to lose nothing
					eventually(t, "the file has the lines", func() bool {
						fi, err := good.Stat()
						return err == nil && fi.Size() >= int64(i)*92
					})
				}
			}
			lost := q.Lost()
			if lost == 0 {
				t.Error("nothing was lost although nobody read")
			}
			all := reading(r)
			eventually(t, "the queue is empty", func() bool { return q.sinks[0].idle() })
			q.Close(long)
			w.Close()

			whole, told := 0, 0
			for _, line := range lines(t, <-all) {
				if n, err := fmt.Sscanf(line, "lost %d", &told); n == 1 && err == nil {
					continue
				}
				whole++
				if !strings.HasSuffix(line, " "+tail) {
					t.Fatalf("not a whole line: %q", line)
				}
			}
			if whole+int(lost) != n || told != int(lost) || q.Lost() != lost {
				t.Errorf("%d lines arrived, %d were lost, %d told of, of %d", whole, lost, told, n)
			}
			if got := len(lines(t, []byte(content(t, good.Name())))); got != n {
				t.Errorf("%d of %d lines in the file", got, n)
			}
		})
	}
}

func TestQueueClosesInTimeWhenStuck(t *testing.T) {
	leakCheck(t)
	r, w := blockingPipe(t)
	q := NewQueue(int(w.Fd()))
	const n = 30
	line := []byte(strings.Repeat("x", os.Getpagesize()-1) + "\n") // what a slot of a pipe holds
	for range n {
		q.Write(line)
	}
	eventually(t, "the pipe is full", func() bool {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(w.Fd()), Events: unix.POLLOUT}}, 0)
		return ready == 0 && err == nil
	})
	written := pipeHolds(t, r) / len(line)
	q.Close(time.Millisecond)
	if got := q.Lost(); int(got)+written != n {
		t.Errorf("%d lines lost and %d written, of 30", got, written)
	}
	r.Close() // the goroutine is let go
	eventually(t, "the goroutine has ended", func() bool { return q.sinks[0].idle() })
	if got := q.Lost(); int(got)+written != n {
		t.Errorf("then %d lines are lost, and %d written", got, written)
	}
}

// idle says that no goroutine writes.
func (s *sink) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushed == nil
}

// pipeHolds is how many bytes wait in the pipe.
func pipeHolds(t testing.TB, f *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// isFull tells whether a write to the pipe would block. How much that is depends
// on how many pipes the user has, see pipe(7), pipe-user-pages-soft.
func isFull(t testing.TB, f *os.File) bool {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
	return err == nil && n == 0
}

func TestQueueCountsWhatIsRefused(t *testing.T) {
	leakCheck(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, w := blockingPipe(t)
	r.Close()
	const closed = 1 << 20 // no descriptor has this number
	q := NewQueue(int(full.Fd()), int(w.Fd()), closed)
	for range 3 {
		q.Write([]byte("line\n"))
	}
	q.Close(long)
	for i, s := range q.sinks {
		if s.lost != 3 {
			t.Errorf("destination %d lost %d of 3 lines", i, s.lost)
		}
	}
	if q.Lost() != 9 {
		t.Errorf("Lost gives %d", q.Lost())
	}
}

func TestQueueRefusesALineThatNeverFits(t *testing.T) {
	leakCheck(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := NewQueue(int(f.Fd()))
	q.Write(make([]byte, queueLimit+1))
	q.Write([]byte("fits\n"))
	q.Close(long)
	if got := content(t, f.Name()); got != "fits\n" || q.Lost() != 1 {
		t.Errorf("%d bytes written, %d lines lost", len(got), q.Lost())
	}
}

// A full disk takes a part of a line. When there is room again, the next line
// begins on a line of its own, and what was lost is told.
func TestQueueOnAFullDisk(t *testing.T) {
	leakCheck(t)
	disk := smallDisk(t, 64<<10)
	f, err := os.OpenFile(filepath.Join(disk, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	filler := filepath.Join(disk, "filler")
	fill(t, filler, 60<<10) // a page is left
	q := NewQueue(int(f.Fd()))
	q.tellLosses(func(lost uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lost) })
	line := strings.Repeat("x", 2999)
	for range 3 {
		fmt.Fprintln(q, line)
	}
	eventually(t, "the disk is full", func() bool { return q.sinks[0].idle() })
	if q.Lost() != 2 {
		t.Errorf("%d of 2 lines lost", q.Lost())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(q, "room again")
	q.Close(long)
	want := line + "\n" + line[:1096] + "\nroom again\nlost 2\n"
	if got := content(t, f.Name()); got != want {
		t.Errorf("the file ends with %q, not %q", got[3000:], want[3000:])
	}
}

// A terminal that stands still (^S) takes lines again when it goes on.
func TestQueueToATerminal(t *testing.T) {
	leakCheck(t)
	master, slave := terminal(t)
	q := NewQueue(int(slave.Fd()))
	const n = 500
	for i := range n {
		fmt.Fprintf(q, "%03d %s\n", i, strings.Repeat("x", i%80))
	}
	got, b := "", make([]byte, 100)
	for !strings.Contains(got, fmt.Sprintf("%d ", n-1)) || !strings.HasSuffix(got, "\n") {
		m, err := master.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:m])
	}
	q.Close(long)
	for i, line := range lines(t, []byte(got)) {
		if want := fmt.Sprintf("%03d %s\r", i, strings.Repeat("x", i%80)); line != want {
			t.Fatalf("line %q, not %q", line, want)
		}
	}
}

// terminal opens a pseudo-terminal whose side of the app does not block.
func terminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		missing(t, "no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// Many write to one pipe, a child of the app among them, and no line is cut.
func TestQueueLinesAreWhole(t *testing.T) {
	leakCheck(t)
	const writers, each = 4, 500
	s := newStd(t)
	r := s.pipe(t)
	all := reading(r)
	out, err := open(Options{}, s.fds)
	if err != nil {
		t.Fatal(err)
	}
	pid := startChild(t, out, fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "child child child"; i=$((i+1)); done`, each))
	q := NewQueue(s.fds[1])
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			line := strings.Repeat(string(rune('a'+i)), 3000) + "\n"
			for range each {
				q.Write([]byte(line))
				for !q.sinks[0].idle() {
					time.Sleep(time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	waitChild(t, pid)
	q.Close(long)
	out.Close(long)
	s.files[1].Close()
	n := 0
	for _, line := range lines(t, <-all) {
		n++
		if line != "child child child" && line != strings.Repeat(line[:1], 3000) {
			t.Fatalf("a line was cut: %.100q", line)
		}
	}
	if n+int(q.Lost()) != (writers+1)*each {
		t.Errorf("%d lines arrived, %d were lost", n, q.Lost())
	}
}

// os.File ends the process when it writes to fd 2 and nobody reads that.
func TestQueueSurvivesALostStderr(t *testing.T) {
	r, w := blockingPipe(t)
	cmd := reexec("lines")
	cmd.Stderr = w
	r.Close()
	got, err := cmd.Output()
	if err != nil || string(got) != "5 lost\n" {
		t.Errorf("the process printed %q and ended with %v", got, err)
	}
}

func linesToStderr() {
	q := NewQueue(2)
	for range 5 {
		q.Write([]byte("line\n"))
	}
	q.Close(long)
	fmt.Println(q.Lost(), "lost")
}
