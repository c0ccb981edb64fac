package logs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pid1 "evermore/init"
	"evermore/reaper"
)

// BenchmarkOutput has a child write to a file and to a pipe that another
// process reads, by way of evermore and by way of tee(1), and to one file alone.
func BenchmarkOutput(b *testing.B) {
	const size = 256 << 20
	write := fmt.Sprintf("exec dd if=/dev/zero bs=64k count=%d status=none", size>>16)

	b.Run("doubled", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			file := filepath.Join(b.TempDir(), "out")
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			cat := exec.Command("cat")
			cat.Stdin = r
			if err := cat.Start(); err != nil {
				b.Fatal(err)
			}
			r.Close()
			out, err := open(Options{OutFile: file}, [3]int{0, int(w.Fd()), 2})
			if err != nil {
				b.Fatal(err)
			}
			waitChild(b, startChild(b, out, write))
			out.Close(time.Minute)
			w.Close()
			if err := cat.Wait(); err != nil {
				b.Fatal(err)
			}
			checkSize(b, file, size)
		}
	})
	b.Run("tee", func(b *testing.B) {
		needs(b, "tee")
		b.SetBytes(size)
		for b.Loop() {
			file := filepath.Join(b.TempDir(), "out")
			runShell(b, fmt.Sprintf("(%s) | tee '%s' | cat >/dev/null", write, file))
			checkSize(b, file, size)
		}
	})
	b.Run("one file", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			file := filepath.Join(b.TempDir(), "out")
			out, err := Open(Options{OutFile: file, Silent: true})
			if err != nil {
				b.Fatal(err)
			}
			waitChild(b, startChild(b, out, write))
			out.Close(time.Minute)
			checkSize(b, file, size)
		}
	})
	b.Run("one file, raw", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			file := filepath.Join(b.TempDir(), "out")
			runShell(b, fmt.Sprintf("%s >'%s'", write, file))
			checkSize(b, file, size)
		}
	})
}

func runShell(b *testing.B, script string) {
	b.Helper()
	if out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

func checkSize(b *testing.B, file string, size int64) {
	b.Helper()
	fi, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	if fi.Size() != size {
		b.Fatalf("%d bytes in %s, not %d", fi.Size(), file, size)
	}
	if err := os.Remove(file); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkObserve is what one line costs the goroutine that owns the state.
func BenchmarkObserve(b *testing.B) {
	e := pid1.Event{
		Kind: pid1.Signalled, Time: time.Unix(1_800_000_000, 0), PID: 7,
		Signal: syscall.SIGUSR2, SentAs: syscall.SIGUSR2, SenderPID: 1, SenderUID: 0,
	}
	quiet := pid1.Event{Kind: pid1.OrphanReaped, PID: 8, Exit: reaper.Exit{PID: 8}}
	for _, bench := range []struct {
		name  string
		opts  LinesOptions
		event pid1.Event
	}{
		{"console", LinesOptions{}, e},
		{"json", LinesOptions{JSON: true}, e},
		{"not written", LinesOptions{}, quiet},
	} {
		b.Run(bench.name, func(b *testing.B) {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer null.Close()
			q := NewQueue(int(null.Fd()))
			defer q.Close(time.Second)
			l := NewLines(q, bench.opts)
			b.ReportAllocs()
			for b.Loop() {
				l.Observe(bench.event)
			}
		})
	}
}

// BenchmarkTail reads a file of lines from its beginning.
func BenchmarkTail(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	data := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 1<<18)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		err := Tail(b.Context(), []string{path}, TailOptions{N: -1}, func(int, []byte) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}
