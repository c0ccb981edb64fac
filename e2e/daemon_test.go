package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// host is a machine as far as daemons can tell: a pid namespace with an init, a
// home and evermore's own folder. Its end is the end of all that runs there.
type host struct {
	t    testing.TB
	init *process
	dir  string // where commands run, and the apps are
	root string // evermore's folder
	env  []string
}

// newHost boots a host. The test is skipped where there is no way to.
func newHost(t testing.TB) *host {
	t.Helper()
	p := pid1
	if os.Geteuid() != 0 {
		p = unprivileged
	}
	p.need(t)
	top, err := os.MkdirTemp(binaries, "host-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: filepath.Join(top, "apps"), root: filepath.Join(top, "root")}
	home := filepath.Join(top, "home")
	for _, dir := range []string{h.dir, home} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := chownAll(top, p.uid()); err != nil {
		t.Fatal(err)
	}
	h.env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "EVERMORE_") || strings.HasPrefix(v, "FOREVER_") || strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "XDG_")
	}), "HOME="+home, "EVERMORE_ROOT="+h.root)
	// A shell that waits reaps whatever becomes its child.
	h.init = launch(t, p, h.dir, filepath.Join(top, "init"), h.env, "sh", "-c", "sleep 1000000 & wait")
	eventually(t, "the init runs", func() bool { return h.command("true").Run() == nil })
	return h
}

// command gives a command to be run there, in the folder of the apps.
func (h *host) command(argv ...string) *exec.Cmd {
	return h.init.enter(context.Background(), h.dir, h.env, argv...)
}

// answer is what a command said, and its exit code.
type answer struct {
	argv     []string
	out, err string
	code     int
}

func (a answer) String() string {
	return fmt.Sprintf("%q ended with %d; stdout:\n%s\nstderr:\n%s", a.argv, a.code, a.out, a.err)
}

// run runs a command to its end. Every command has to end, whatever is wrong.
func (h *host) run(argv ...string) answer {
	h.t.Helper()
	return h.runWith(nil, argv...)
}

// runWith is run with further variables.
func (h *host) runWith(env []string, argv ...string) answer {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := h.init.enter(ctx, h.dir, append(slices.Clip(h.env), env...), argv...)
	a := answer{argv: argv}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	a.out, a.err, a.code = stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	if exit := new(exec.ExitError); ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		// WaitDelay shows here too: a daemon must hold nothing of who started it.
		h.t.Fatalf("%v: %v", err, a)
	}
	return a
}

// ok runs a command that is to succeed and gives its stdout.
func (h *host) ok(argv ...string) string {
	h.t.Helper()
	a := h.run(argv...)
	if a.code != 0 {
		h.t.Fatalf("%v", a)
	}
	return a.out
}

// fails runs a command that is to end with the code and to say on stderr why: in
// a text that matches.
func (h *host) fails(code int, pattern string, argv ...string) answer {
	h.t.Helper()
	a := h.run(argv...)
	if a.code != code || !regexp.MustCompile(pattern).MatchString(a.err) {
		h.t.Fatalf("want %d and stderr %q: %v", code, pattern, a)
	}
	return a
}

// refuses runs a command that starts nothing and says why in one line, perhaps
// with another one about what to do.
func (h *host) refuses(code int, pattern string, argv ...string) {
	h.t.Helper()
	a := h.run(argv...)
	m := refusal.FindStringSubmatch(a.err)
	if a.code != code || m == nil || !regexp.MustCompile("^(?:"+pattern+")$").MatchString(m[1]) {
		h.t.Errorf("want %d and %q: %v", code, pattern, a)
	}
	h.isEmpty()
}

// row is an app in the answer of list --json.
type row struct {
	Index      int    `json:"index"`
	Status     string `json:"status"`
	UID        string `json:"uid"`
	ID         string `json:"id"`
	Script     string `json:"script"`
	LogFile    string `json:"log_file"`
	PIDFile    string `json:"pid_file"`
	Supervisor int    `json:"supervisor"`
	State      string `json:"state"`
	PID        int    `json:"pid"`
	Restarts   int    `json:"restarts"`
	Workers    []struct {
		Worker   int  `json:"worker"`
		PID      int  `json:"pid"`
		Ready    bool `json:"ready"`
		Restarts int  `json:"restarts"`
	} `json:"workers"`
	LastExit *struct {
		Reason string `json:"reason"`
		Code   *int   `json:"code"`
		Signal string `json:"signal"`
	} `json:"last_exit"`
	Ended *struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	} `json:"ended"`
}

func (h *host) list() []row {
	h.t.Helper()
	var rows []row
	out := h.ok("evermore", "list", "--json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		h.t.Fatalf("%v in %s", err, out)
	}
	return rows
}

// find gives the app of the uid; nil: there is none.
func (h *host) find(uid string) *row {
	h.t.Helper()
	rows := h.list()
	if i := slices.IndexFunc(rows, func(r row) bool { return r.UID == uid }); i >= 0 {
		return &rows[i]
	}
	return nil
}

// app gives the app of the uid, which is there.
func (h *host) app(uid string) row {
	h.t.Helper()
	r := h.find(uid)
	if r == nil {
		h.t.Fatalf("there is no %s in list:\n%s", uid, h.ok("evermore", "list"))
	}
	return *r
}

// await waits until the app of the uid is as wanted and gives it.
func (h *host) await(uid, what string, ok func(row) bool) row {
	h.t.Helper()
	var r *row
	if !poll(func() bool { r = h.find(uid); return r != nil && ok(*r) }) {
		h.t.Fatalf("waited in vain: %s %s; it is %+v; its log:\n%s", uid, what, r, h.log(uid))
	}
	return *r
}

// log gives the log of a uid.
func (h *host) log(uid string) string { return h.text(filepath.Join(h.root, uid+".log")) }

// awaitLog waits until the log of a uid matches.
func (h *host) awaitLog(uid, pattern string) {
	h.t.Helper()
	h.awaitText(filepath.Join(h.root, uid+".log"), pattern)
}

// path is a path there, as the test sees it.
func (h *host) path(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(h.dir, name)
	}
	return name
}

// file writes a file and gives its path; nobody may know what it is, so all may
// run it.
func (h *host) file(name, text string) string {
	h.t.Helper()
	path := h.path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		h.t.Fatal(err)
	}
	if err := chownAll(path, h.init.place.uid()); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// text reads a file; "": there is none.
func (h *host) text(name string) string {
	text, _ := os.ReadFile(h.path(name))
	return string(text)
}

// awaitText waits until a file matches.
func (h *host) awaitText(name, pattern string) {
	h.t.Helper()
	re := regexp.MustCompile(pattern)
	if !poll(func() bool { return re.MatchString(h.text(name)) }) {
		h.t.Fatalf("waited in vain for %q in %s:\n%s", pattern, name, h.text(name))
	}
}

// kill sends a signal to a process there, by its pid there.
func (h *host) kill(pid int, s syscall.Signal) {
	h.t.Helper()
	outside := h.init.outside(pid)
	if outside == 0 {
		h.t.Fatalf("there is no process %d to be sent %v", pid, s)
	}
	if err := syscall.Kill(outside, s); err != nil {
		h.t.Fatal(err)
	}
}

// lives tells whether a process there is neither dead nor a zombie.
func (h *host) lives(pid int) bool { return h.init.outside(pid) != 0 }

// gone waits for the end of a process there.
func (h *host) gone(pid int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("process %d is gone", pid), func() bool { return !h.lives(pid) })
}

// running gives the command lines of all that runs there beside init.
func (h *host) running() []string {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.init.pid()))
	if err != nil {
		h.t.Fatal(err)
	}
	var found []string
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if theirs, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "ns/pid")); theirs != space {
			continue
		}
		text, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		command := strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
		if command != "" && !strings.Contains(command, "sleep 1000000") {
			found = append(found, command)
		}
	}
	return found
}

// isEmpty checks that nothing runs and nothing is on record.
func (h *host) isEmpty() {
	h.t.Helper()
	if !poll(func() bool { return len(h.running()) == 0 }) {
		h.t.Errorf("these run: %q", h.running())
	}
	if records, _ := filepath.Glob(filepath.Join(h.root, "run", "*.json")); len(records) > 0 {
		h.t.Errorf("these are on record: %q", records)
	}
	if sockets, _ := filepath.Glob(filepath.Join(h.root, "sock", "*")); len(sockets) > 0 {
		h.t.Errorf("these sockets are left: %q", sockets)
	}
}

// sleeper is an app that does nothing, cheaply; start runs it by -c sh.
const sleeper = "echo up $$; exec sleep 100000\n"

// start starts a script of sh under a uid and gives its row.
func (h *host) start(uid, text string, options ...string) row {
	h.t.Helper()
	h.file(uid+".sh", text)
	h.ok(slices.Concat([]string{"evermore", "start", "--uid", uid, "-c", "sh"}, options, []string{uid + ".sh"})...)
	return h.app(uid)
}

// copyTree copies a folder of testdata into the folder of the apps.
func (h *host) copyTree(from string) {
	h.t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		text, err := io.ReadAll(in)
		h.file(rel, string(text))
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func TestDaemonStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("a.sh", sleeper)
	out := h.ok("evermore", "start", "--uid", "a", "--id", "first", "-c", "sh", "--pid-file", h.path("a.pid"), "a.sh")
	// All of it is true the moment that start is over, without waiting.
	pid := h.text("a.pid")
	a := h.app("a")
	if a.Status != "running" || strconv.Itoa(a.PID) != pid || !h.lives(a.PID) || !h.lives(a.Supervisor) {
		t.Errorf("after start: %+v, pid file %q", a, pid)
	}
	if !strings.Contains(out, "uid: a, pid: "+pid+",") {
		t.Errorf("start does not tell the uid and the pid %s:\n%s", pid, out)
	}
	if stdin, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", h.init.outside(a.PID))); stdin != "/dev/null" {
		t.Errorf("the app's stdin is %q", stdin)
	}
	session, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.init.outside(a.Supervisor)))
	if err != nil {
		t.Fatal(err)
	}
	// Of proc_pid_stat(5) the sixth field, the fourth behind the name.
	if got := strings.Fields(string(session[bytes.LastIndexByte(session, ')')+1:]))[3]; got != strconv.Itoa(h.init.outside(a.Supervisor)) {
		t.Errorf("the supervisor leads no session: %s", session)
	}

	// Whatever it is called by, it is that app.
	for _, target := range []func(row) string{
		func(row) string { return "first" },
		func(row) string { return "0" },
		func(row) string { return "a.sh" },
		func(r row) string { return strconv.Itoa(r.PID) },
		func(r row) string { return strconv.Itoa(r.Supervisor) },
	} {
		h.ok("evermore", "restart", target(a))
		b := h.app("a")
		if b.PID == a.PID || b.Supervisor != a.Supervisor || h.text("a.pid") != strconv.Itoa(b.PID) {
			t.Fatalf("restart %s: %+v after %+v, pid file %s", target(a), b, a, h.text("a.pid"))
		}
		a = b
	}
	// An app that shares no port has one process, which ends before the next begins.
	if out := h.ok("evermore", "reload"); !strings.Contains(out, "Evermore reloaded process(es):") || !strings.Contains(out, " a ") {
		t.Errorf("reload says:\n%s", out)
	}
	if b := h.app("a"); b.PID == a.PID || b.Supervisor != a.Supervisor || b.Restarts != a.Restarts+1 || len(b.Workers) != 1 || b.Workers[0].PID != b.PID {
		t.Errorf("reload: %+v after %+v", b, a)
	}
	h.fails(1, "cannot scale a: .*-i N to have several", "evermore", "scale", "a", "2")
	for _, n := range []string{"-1", "x", "1000"} {
		h.fails(2, `cannot read "`+n+`" as a number of processes: use 1 to 128`, "evermore", "scale", "--", "a", n)
	}
	h.fails(2, "there has to be one process at least: evermore stop ends all", "evermore", "scale", "a", "0")
	h.fails(2, "scale takes a target and a number of processes", "evermore", "scale")
	h.fails(1, "cannot find process with id: nobody", "evermore", "reload", "nobody")
	h.ok("evermore", "stop", "a")
	h.isEmpty()
	if exists(h.path("a.pid")) {
		t.Error("its pid file is left")
	}
	h.fails(1, "cannot find process with id: a", "evermore", "stop", "a")
}

// Nothing that makes a start impossible is passed over in silence, and nothing is
// left of it.
func TestDaemonStartFails(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("a.sh", "touch spawned; "+sleeper)
	h.file("noexec", "no program")
	if err := os.Chmod(h.path("noexec"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.file("folder/x", "")
	start := func(args ...string) []string { return append([]string{"evermore", "start"}, args...) }

	h.refuses(255, `Cannot start evermore\nerror:   script .*/missing\.js does not exist\.`, start("missing.js")...)
	h.refuses(127, `.*no\.such\.command.*`, start("-c", "./no.such.command", "a.sh")...)
	h.refuses(126, `.*noexec.*permission denied.*`, start("-c", "./noexec", "a.sh")...)
	for _, o := range []string{"-l", "-o", "-e"} {
		h.refuses(1, `cannot open log file ".*/folder": is a directory`, start("-a", o, h.path("folder"), "-c", "sh", "a.sh")...)
		h.refuses(1, `cannot open log file ".*/a\.sh/log": not a directory`, start("-a", o, h.path("a.sh/log"), "-c", "sh", "a.sh")...)
	}
	h.refuses(1, `cannot write the pid file .*/nowhere/pid: no such file or directory`, start("--pid-file", h.path("nowhere/pid"), "-c", "sh", "a.sh")...)
	h.refuses(2, `--working-dir: cannot enter nowhere: no such file or directory`, start("--working-dir", "nowhere", "-c", "sh", "a.sh")...)
	h.refuses(2, `--user: unknown user "no\.such\.user"`, start("--user", "no.such.user", "-c", "sh", "a.sh")...)
	h.refuses(2, `--min-uptime: cannot read "2x" as a time: .*`, start("--min-uptime", "2x", "-c", "sh", "a.sh")...)
	h.refuses(2, `-u/--uid: .*`, start("--uid", "a/b", "-c", "sh", "a.sh")...)
	h.refuses(2, `unknown option --min-uptme: did you mean --min-uptime\?`, start("--min-uptme", "1", "-c", "sh", "a.sh")...)
	h.refuses(2, `--cron-restart: .*`, start("--cron-restart", "61 * * * *", "-c", "sh", "a.sh")...)
	h.refuses(2, `--max-memory: .*`, start("--max-memory", "much", "-c", "sh", "a.sh")...)
	h.refuses(2, `--watch-directory: cannot watch .*nowhere: no such file or directory`, start("-w", "--watch-directory", "nowhere", "-c", "sh", "a.sh")...)
	h.refuses(2, `--watch-ignore: .*`, start("-w", "--watch-ignore", "[", "-c", "sh", "a.sh")...)
	h.refuses(1, `cannot read the variables of .*nowhere: no such file or directory`, start("--env-file", "nowhere", "-c", "sh", "a.sh")...)
	h.refuses(3, `the command of --before failed: .*3`, start("--before", "sh -c 'exit 3'", "-c", "sh", "a.sh")...)
	h.refuses(127, `.*no\.such\.command.*`, start("--before", "./no.such.command", "-c", "sh", "a.sh")...)
	if exists(h.path("spawned")) {
		t.Error("an app was started")
	}

	// A file of apps is checked whole.
	h.file("apps.json", `[{"uid": "good", "script": "a.sh", "command": "sh"}, {"uid": "bad", "script": "missing.sh", "command": "sh"}]`)
	h.refuses(255, `(?s).*missing\.sh does not exist\.`, start("apps.json")...)
	h.file("apps.json", `[{"uid": "good", "script": "a.sh", "command": "sh"}, {"uid": "bad", "script": "a.sh", "minUptme": 5}]`)
	h.refuses(1, `apps\.json:1:\d+: .*minUptme.*minUptime.*`, start("apps.json")...)
	h.file("apps.json", `[{"uid": "twin", "script": "a.sh", "command": "sh"}, {"uid": "twin", "script": "a.sh", "command": "sh"}]`)
	if a := h.run(start("apps.json")...); a.code == 0 || !strings.Contains(a.err, "twin") {
		t.Errorf("one uid twice in a file: %v", a)
	}
	h.isEmpty()
	if exists(h.path("spawned")) {
		t.Error("an app was started")
	}
}

func TestDaemonSameUID(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", sleeper)
	h.fails(255, "(?s)uid a is taken.*--replace", "evermore", "start", "--uid", "a", "-c", "sh", "a.sh")
	if b := h.app("a"); b.PID != a.PID || len(h.list()) != 1 {
		t.Errorf("the refused start changed something: %+v", h.list())
	}
	h.ok("evermore", "start", "--replace", "--uid", "a", "-c", "sh", "a.sh")
	b := h.app("a")
	if b.Supervisor == a.Supervisor || h.lives(a.PID) || h.lives(a.Supervisor) || len(h.list()) != 1 {
		t.Errorf("it was not replaced: %+v after %+v", b, a)
	}
	h.ok("evermore", "stop", "a")

	// restart X || start X, twice: forever's users write it so.
	script := "evermore restart b.sh || evermore start --uid b -c sh b.sh"
	h.file("b.sh", sleeper)
	h.ok("sh", "-c", script)
	first := h.app("b")
	h.ok("sh", "-c", script)
	if second := h.app("b"); second.Supervisor != first.Supervisor || second.PID == first.PID {
		t.Errorf("%+v after %+v", second, first)
	}
	h.ok("evermore", "stopall")
	h.isEmpty()

	// Of starts at once one wins.
	h.file("c.sh", "echo $$ >> c.pids; "+sleeper)
	const starters = 4
	results := make(chan answer, starters)
	for range starters {
		go func() { results <- h.run("evermore", "start", "-a", "--uid", "c", "-c", "sh", "c.sh") }()
	}
	won := 0
	for range starters {
		switch r := <-results; {
		case r.code == 0:
			won++
		case !strings.Contains(r.err, "uid c is taken"):
			t.Errorf("a start that lost says: %v", r)
		}
	}
	eventually(t, "the app runs", func() bool { return h.text("c.pids") != "" })
	if won != 1 || strings.Count(h.text("c.pids"), "\n") != 1 || len(h.list()) != 1 {
		t.Errorf("%d starts won, these apps ran: %q", won, h.text("c.pids"))
	}
	if pid := h.text(h.root + "/pids/c.pid"); pid != strconv.Itoa(h.app("c").PID) {
		t.Errorf("the pid file of the winner has %q", pid)
	}
}
