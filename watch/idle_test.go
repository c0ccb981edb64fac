package watch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// idle watches dir, says so, and waits until stdin ends.
func idle(dir, poll string) error {
	o := Options{Dirs: []string{dir}}
	if poll != "" {
		var err error
		if o.Poll, err = time.ParseDuration(poll); err != nil {
			return err
		}
	}
	failed := make(chan error, 1)
	w, err := New(o, func(c Change) { failed <- fmt.Errorf("changed: %+v", c) }, func(err error) { failed <- err })
	if err != nil {
		return err
	}
	<-w.Ready()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	w.Close()
	select {
	case failure := <-failed:
		return errors.Join(err, failure)
	default:
		return err
	}
}

// A watch of many folders wakes nobody while nothing changes. Polling does: that
// is what shows a wake-up to be seen.
func TestIdle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 200 {
		write(t, filepath.Join(dir, strconv.Itoa(i), "app.js"))
	}
	quietWithin := func(t *testing.T, poll string, windows int) bool {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), idling+"="+dir, polling+"="+poll, noRaceSleep)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		must(t, err)
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		defer func() {
			stdin.Close()
			must(t, cmd.Wait())
		}()
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		// The Go runtime comes to rest some time after the last goroutine.
		for before := switches(t, cmd.Process.Pid); windows > 0; windows-- {
			<-time.After(500 * time.Millisecond)
			now := switches(t, cmd.Process.Pid)
			if now == before {
				return true
			}
			before = now
		}
		return false
	}
	t.Run("inotify", func(t *testing.T) {
		t.Parallel()
		if !quietWithin(t, "", 40) {
			t.Error("it wakes up again and again")
		}
	})
	t.Run("poll", func(t *testing.T) {
		t.Parallel()
		if quietWithin(t, "50ms", 3) {
			t.Error("polling was not seen to wake up")
		}
	})
}

// switches is how often the threads of a process were given the processor:
// proc_pid_status(5).
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	for _, file := range files {
		status, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(status)) {
			if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "_ctxt_switches") {
				n, err := strconv.Atoi(strings.TrimSpace(value))
				must(t, err)
				sum += n
			}
		}
	}
	return sum
}
