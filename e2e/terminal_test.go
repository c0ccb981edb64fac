package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is typed on a terminal.
const (
	interrupt = "\x03" // ^C
	endOfFile = "\x04" // ^D
	suspend   = "\x1a" // ^Z
	quit      = "\x1c" // ^\
)

// terminal is a real terminal, a pty, with a program that leads its session.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu    sync.Mutex
	shown []byte        // all that the terminal has shown
	more  chan struct{} // closed when there is more, or when it is all
	all   bool
	at    int // where expect goes on

	ended chan struct{} // closed when the program has ended
}

// onTerminal starts a program on a terminal of its own, whose session it leads.
func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, master: master, cmd: cmd, more: make(chan struct{}), ended: make(chan struct{})}
	term.resize(24, 132)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	err = cmd.Start()
	slave.Close()
	if err != nil {
		master.Close()
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		term.read()
	}()
	go func() {
		defer close(term.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		for _, pid := range session(cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-term.ended
		master.Close()
		<-read
	})
	return term
}

// openTerminal makes a pty, see pts(4). The pty package of Go's users makes the
// master blocking: then Close waits for a Read, and there is no hanging up.
func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var number int
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// control does something with the descriptor of a file, and leaves it
// non-blocking.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// resize gives the terminal another size: the kernel sends SIGWINCH to its
// foreground process group.
func (term *terminal) resize(rows, columns uint16) {
	term.t.Helper()
	size := &unix.Winsize{Row: rows, Col: columns}
	if err := control(term.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) }); err != nil {
		term.t.Fatalf("resizing: %v", err)
	}
}

// shell starts an interactive bash: job control is its work.
func shell(t *testing.T) *terminal {
	t.Helper()
	needs(t, "bash", "node")
	cmd := exec.Command("bash", "--norc", "--noprofile", "--noediting", "-i")
	app, err := filepath.Abs("testdata/terminal/app.js")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PS1=ready> ", "HISTFILE=", "TERM=xterm", "IGNOREEOF=9", "APP="+app, "EV="+filepath.Join(binaries, "evermore"))
	term := onTerminal(t, cmd)
	term.expect("ready> ")
	return term
}

func (term *terminal) read() {
	b := make([]byte, 4096)
	for {
		n, err := term.master.Read(b)
		term.mu.Lock()
		term.shown = append(term.shown, b[:n]...)
		term.all = err != nil
		close(term.more)
		term.more = make(chan struct{})
		term.mu.Unlock()
		if err != nil {
			return // EIO: the last one on the terminal has gone
		}
	}
}

// types types on the terminal.
func (term *terminal) types(keys string) {
	term.t.Helper()
	if _, err := term.master.WriteString(keys); err != nil {
		term.t.Fatalf("typing %q: %v", keys, err)
	}
}

// expect waits until the terminal shows what the pattern matches, behind what
// was expected before, and gives its groups.
func (term *terminal) expect(pattern string) []string {
	term.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(patience)
	for {
		term.mu.Lock()
		rest, more, all := term.shown[term.at:], term.more, term.all
		if m := re.FindSubmatchIndex(rest); m != nil {
			term.at += m[1]
			term.mu.Unlock()
			groups := make([]string, 0, len(m)/2)
			for i := 0; i < len(m); i += 2 {
				groups = append(groups, string(rest[m[i]:m[i+1]]))
			}
			return groups
		}
		term.mu.Unlock()
		if all {
			term.t.Fatalf("the terminal has ended without %q; it showed:\n%s", pattern, term.transcript())
		}
		select {
		case <-more:
		case <-late:
			term.t.Fatalf("the terminal does not show %q but:\n%s", pattern, term.transcript())
		}
	}
}

func (term *terminal) transcript() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return string(term.shown)
}

// expectCode waits for the shell's prompt and gives $?.
func (term *terminal) expectCode(want int) {
	term.t.Helper()
	term.expect("ready> ")
	term.types("echo code=$?\r")
	if got := term.expect(`code=(\d+)`)[1]; got != strconv.Itoa(want) {
		term.t.Errorf("$? is %s, not %d; the terminal showed:\n%s", got, want, term.transcript())
	}
	term.expect("ready> ")
}

// expectUp waits for the app and gives its pid and that of evermore.
func (term *terminal) expectUp() (app, evermore int) {
	term.t.Helper()
	m := term.expect(`app (\d+) of (\d+) is up`)
	app, _ = strconv.Atoi(m[1])
	evermore, _ = strconv.Atoi(m[2])
	return app, evermore
}

// ends waits for the end of the program.
func (term *terminal) ends(code int) {
	term.t.Helper()
	select {
	case <-term.ended:
	case <-time.After(patience):
		term.t.Fatalf("it does not end; the terminal showed:\n%s", term.transcript())
	}
	if got := term.cmd.ProcessState.ExitCode(); got != code {
		term.t.Errorf("exit code %d, not %d; the terminal showed:\n%s", got, code, term.transcript())
	}
}

// awaitForeground waits until processes run in the foreground group of their
// terminal: before that, what is typed is not for them, and a stop signal that
// comes before SIGCONT is dropped with it.
func awaitForeground(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is in the foreground", pid), func() bool {
			stat := statOf(pid)
			return stat != nil && stat[0] != "T" && stat[2] == stat[5]
		})
	}
}

// statOf gives the fields of /proc/PID/stat, see proc(5), from the state on: 0 is
// the state, 2 the process group, 3 the session, 5 the foreground group of its
// terminal. It gives nil when the process is gone.
func statOf(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// session gives the processes of a session.
func session(leader int) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat := statOf(pid); stat != nil && stat[3] == strconv.Itoa(leader) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stateOf gives the state of a process, see proc(5); "": it is gone.
func stateOf(pid int) string {
	if stat := statOf(pid); stat != nil {
		return stat[0]
	}
	return ""
}

func gone(pid int) bool {
	state := stateOf(pid)
	return state == "" || state == "Z"
}

func TestInterruptOnTerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, mode, key string
		code            int
	}{
		{"default action", "plain", interrupt, 130},
		{"handler", "counts", interrupt, 41},
		{"quit", "plain", quit, 131},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh := shell(t)
			for range 5 {
				sh.types("$EV --http off -- node $APP " + test.mode + "\r")
				app, evermore := sh.expectUp()
				sh.types(test.key)
				sh.expectCode(test.code)
				for _, pid := range []int{app, evermore} {
					if !gone(pid) {
						t.Errorf("process %d is still there", pid)
					}
				}
			}
			if s := sh.transcript(); strings.Contains(s, "restarting") {
				t.Errorf("a stop was taken for a crash:\n%s", s)
			}
		})
	}
}

func TestInterruptTwiceKills(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off --kill-timeout 0 -- node $APP stubborn\r")
	sh.expectUp()
	sh.types(interrupt)
	sh.expect("refused SIGINT")
	eventually(t, "evermore says that it stops the app", func() bool { return strings.Contains(sh.transcript(), "stopping script") })
	time.Sleep(100 * time.Millisecond) // within 50 ms it would be the same ^C
	sh.types(interrupt)
	sh.expectCode(137)
	if s := sh.transcript(); strings.Count(s, "refused SIGINT") > 2 || strings.Contains(s, "refused SIGTERM") {
		t.Errorf("the app got more than was typed:\n%s", s)
	}
}

func TestInterruptDuringBackoff(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off --spin-sleep-time 1h -- sh -c 'exit 7'\r")
	sh.expect("waits 1h0m0s before restarting")
	sh.types(interrupt)
	sh.expectCode(7)
}

func TestSuspendAndContinue(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off -- node $APP plain\r")
	app, evermore := sh.expectUp()
	sh.types("one\r")
	sh.expect("got one")
	for range 3 {
		sh.types(suspend)
		sh.expect("Stopped")
		sh.expect("ready> ")
		for _, pid := range []int{app, evermore} {
			eventually(t, fmt.Sprintf("process %d is stopped", pid), func() bool { return stateOf(pid) == "T" })
		}
		sh.types("jobs\r")
		sh.expect(`\[1\]\+  Stopped .*APP plain`)
		sh.expect("ready> ")
		sh.types("fg\r")
		sh.expect(`APP plain`)
		sh.types("two\r")
		sh.expect("got two")
	}
	sh.types(interrupt)
	sh.expectCode(130)
}

func TestBackgroundJob(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off -- node $APP silent &\r")
	app, evermore := sh.expectUp()
	sh.types("echo alive $((40+2))\r")
	sh.expect("alive 42")
	sh.types("jobs\r")
	sh.expect(`\[1\]\+  .*APP silent`)
	sh.types("fg\r")
	sh.expect("APP silent")
	awaitForeground(t, evermore)
	sh.types(interrupt)
	sh.expectCode(130)
	for _, pid := range []int{app, evermore} {
		if !gone(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
}

// An app that reads in the background is stopped, evermore with it, so that the
// shell knows and the app reads on when it is in the foreground.
func TestReadInBackground(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types(`$EV --http off -- sh -c 'echo app $$ of $PPID is up; while read x; do echo got $x; done' &` + "\r")
	app, evermore := sh.expectUp()
	for _, pid := range []int{app, evermore} {
		eventually(t, fmt.Sprintf("process %d is stopped", pid), func() bool { return stateOf(pid) == "T" })
	}
	sh.types("fg\r")
	awaitForeground(t, app, evermore)
	sh.types("one\r")
	sh.expect("got one")
	sh.types(interrupt)
	sh.expectCode(130)
}

func TestContinueInBackground(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off -- node $APP silent\r")
	app, evermore := sh.expectUp()
	for range 3 {
		sh.types(suspend)
		sh.expect("Stopped")
		sh.expect("ready> ")
		sh.types("bg\r")
		sh.expect("ready> ")
		for _, pid := range []int{app, evermore} {
			eventually(t, fmt.Sprintf("process %d goes on", pid), func() bool { return stateOf(pid) == "S" })
		}
		sh.types("fg\r")
		sh.expect("APP silent")
		awaitForeground(t, app, evermore)
	}
	sh.types(interrupt)
	sh.expectCode(130)
}

func TestREPL(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off -- node\r")
	sh.expect("Welcome to Node.js")
	sh.expect("> ")
	sh.types("6*7+100000\r")
	sh.expect(`100042(?:\x1b\[39m)?\r*\n[^>]*> `)
	sh.types(interrupt) // a REPL handles it: it is a key there, not a signal
	sh.expect(`To exit, press Ctrl\+C again`)
	sh.types(".exit\r")
	sh.expectCode(0)
}

// An app that is killed while it reads keys leaves the terminal raw: ^C is no
// signal there.
func TestKilledInRawMode(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off --spin-sleep-time 1s -- node $APP raw " + filepath.Join(t.TempDir(), "once") + "\r")
	sh.expectUp()
	sh.types("x")
	sh.expect("killed by signal: SIGKILL")
	sh.expectUp()
	sh.types("one\r")
	sh.expect("one\r\n.*got one") // it is shown as it is typed
	sh.types(interrupt)
	sh.expectCode(130)
}

func TestResize(t *testing.T) {
	t.Parallel()
	sh := shell(t)
	sh.types("$EV --http off -- node $APP resizes\r")
	sh.expectUp()
	const times = 20
	for n := 1; n <= times; n++ {
		sh.resize(uint16(30+n), uint16(100+n))
		sh.expect(fmt.Sprintf(`resize \d+: %dx%d`, 100+n, 30+n))
	}
	sh.types("well\r")
	sh.expect("got well")
	if s := sh.transcript(); strings.Count(s, "resize ") != times {
		t.Errorf("%d resizes were not %d signals:\n%s", times, times, s)
	}
	sh.types(interrupt)
	sh.expectCode(130)
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, redirect, says string }{
		{"closed", "<&-", ""},
		{"null", "</dev/null", "input ended"},
		{"file", "<$APP", "got"},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh := shell(t)
			sh.types("$EV --http off -- node $APP plain " + test.redirect + "\r")
			sh.expectUp()
			sh.expect(test.says)
			sh.types(interrupt)
			sh.expectCode(130)
		})
	}
	t.Run("pipe", func(t *testing.T) {
		sh := shell(t)
		sh.types("cat | $EV --http off -- node $APP plain\r")
		sh.expectUp()
		sh.types("one\r")
		sh.expect("got one")
		sh.types(interrupt)
		sh.expectCode(130)
	})
}

func TestHangup(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, mode string }{
		{"default action", "plain"},
		{"handler", "notes"},
		{"stubborn", "stubborn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh := shell(t)
			notes := filepath.Join(t.TempDir(), "notes")
			sh.types("$EV --http off --kill-timeout 1s -- node $APP " + test.mode + " " + notes + "\r")
			app, evermore := sh.expectUp()
			sh.master.Close()
			eventually(t, "the app and evermore end", func() bool { return gone(app) && gone(evermore) })
			if test.mode == "notes" {
				if b, _ := os.ReadFile(notes); string(b) != "SIGHUP\n" {
					t.Errorf("the app got %q", b)
				}
			}
		})
	}
}

// TestInitOnTerminal is what "docker run -it" makes: PID 1 of a pid namespace
// that leads the session of a terminal.
func TestInitOnTerminal(t *testing.T) {
	t.Parallel()
	needs(t, "node", "sh", "mount")
	start := func(t *testing.T, args ...string) *terminal {
		app, err := filepath.Abs("testdata/terminal/app.js")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", `mount -t proc proc /proc && exec "$0" "$@"`, filepath.Join(binaries, "evermore"), "--http", "off", "-v", "--")
		for _, a := range args {
			cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "APP", app))
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		return onTerminal(t, cmd)
	}
	t.Run("interrupt", func(t *testing.T) {
		term := start(t, "node", "APP", "counts")
		if _, evermore := term.expectUp(); evermore != 1 {
			t.Fatalf("evermore is not PID 1 but %d", evermore)
		}
		term.types(interrupt)
		term.ends(41)
	})
	t.Run("default action", func(t *testing.T) {
		term := start(t, "node", "APP", "plain")
		term.expectUp()
		term.types("one\r")
		term.expect("got one")
		term.types(interrupt)
		term.ends(130)
	})
	t.Run("REPL", func(t *testing.T) {
		term := start(t, "node")
		term.expect("> ")
		term.types("6*7+100000\r")
		term.expect(`100042(?:\x1b\[39m)?\r*\n[^>]*> `)
		term.types(".exit\r")
		term.ends(0)
	})
	t.Run("restart", func(t *testing.T) {
		term := start(t, "node", "APP", "raw")
		term.expectUp()
		term.types("x")
		term.expect("killed by signal: SIGKILL")
		term.expectUp()
		term.types("q")
		term.ends(0)
	})
	t.Run("hangup", func(t *testing.T) {
		term := start(t, "node", "APP", "plain")
		term.expectUp()
		term.master.Close()
		term.ends(129)
	})
	t.Run("suspend", func(t *testing.T) {
		// Nobody could continue them: the kernel drops the SIGTSTP of an
		// orphaned group.
		term := start(t, "node", "APP", "plain")
		term.expectUp()
		term.types(suspend)
		term.types("one\r")
		term.expect("got one")
		term.types(interrupt)
		term.ends(130)
	})
}

func TestColour(t *testing.T) {
	t.Parallel()
	const red = "\x1b[31merror\x1b[39m: Evermore detected script exited with code: 7"
	const plain = "error: Evermore detected script exited with code: 7"
	for _, test := range []struct{ name, command, want string }{
		{"terminal", "$EV --http off -m 1 -- sh -c 'exit 7'", red},
		{"NO_COLOR", "NO_COLOR=1 $EV --http off -m 1 -- sh -c 'exit 7'", plain},
		{"--no-colors", "$EV --no-colors --http off -m 1 -- sh -c 'exit 7'", plain},
		{"pipe", "$EV --http off --log-format console -m 1 -- sh -c 'exit 7' 2>&1 | cat", plain},
		{"--colors into a pipe", "$EV --colors --http off --log-format console -m 1 -- sh -c 'exit 7' 2>&1 | cat", red},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh := shell(t)
			sh.types(test.command + "\r")
			if got := sh.expect(`(?:\x1b\[\d+m)?error(?:\x1b\[\d+m)?: Evermore detected script exited with code: 7`)[0]; got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}
