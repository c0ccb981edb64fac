package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
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

	"github.com/rogpeppe/go-internal/testscript"

	"evermore/signals"
)

// TestScripts runs each script at each place. The commands, beside those of
// testscript itself:
//
//	exits CODE COMMAND...      run the command at the place; it ends with the code;
//	                           its output is also in exits.out and exits.err
//	start NAME COMMAND...      start it in the background; its output goes to
//	                           NAME.out and NAME.err, $NAME is its pid as it sees
//	                           it, $NAME_host as the test does
//	refuses CODE REGEXP COMMAND...  it ends with the code before it starts
//	                           anything, which would leave a file spawned, and
//	                           says why in a line that matches
//	ends NAME CODE             wait for its end; it ends with the code
//	running NAME               it has not ended
//	signal SIGNAL NAME         send it a signal from outside
//	[!] inside NAME COMMAND... run a command in its namespaces
//	alive NAME FILE            the process below NAME whose pid is in FILE lives
//	gone NAME FILE             wait until it is dead
//	waitfor FILE REGEXP [N]    wait until FILE has N (1) matches
//	count FILE REGEXP N        FILE has N matches
//	metric NAME VALUE          wait until the metric at $ADDR has the value
//	http STATUS PATH [REGEXP]  wait until $ADDR answers like that
//	cgroup NAME FILE...        make a control group that has one of the files;
//	                           $NAME is its folder
//	needs TOOL...              skip without these tools; fail where CI=true
//	lacks REASON...            skip for the reason; fail where CI=true
//
// Conditions: plain, pid1 (it is PID 1), root (it is the machine's root), userns,
// namespaces (it may make them, by unshare(1), and mount).
//
// In the environment, beside testscript's own: BIN is the folder of the
// binaries; ADDR and PORT are free for --http, APP_PORT for an app; EVERMORE_HTTP is off and EVERMORE_LOG_FORMAT console, so that scripts
// run beside each other and read well. The env of testscript is for the script
// alone: a command gets its variables by env(1).
func TestScripts(t *testing.T) {
	for _, p := range places() {
		t.Run(string(p), func(t *testing.T) {
			p.need(t)
			t.Parallel()
			root, err := os.MkdirTemp(binaries, string(p)+"-")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(root, 0o755); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/script",
				WorkdirRoot:         root,
				Setup:               func(e *testscript.Env) error { return setUp(e, p) },
				Condition:           p.condition,
				Cmds:                commands,
				RequireUniqueNames:  true,
				RequireExplicitExec: true,
			})
		})
	}
}

var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":   cmdExits,
	"refuses": cmdRefuses,
	"start":   cmdStart,
	"ends":    cmdEnds,
	"running": cmdRunning,
	"signal":  cmdSignal,
	"inside":  cmdInside,
	"alive":   cmdAlive,
	"gone":    cmdGone,
	"waitfor": cmdWaitFor,
	"count":   cmdCount,
	"metric":  cmdMetric,
	"http":    cmdHTTP,
	"cgroup":  cmdCgroup,
	"needs":   cmdNeeds,
	"lacks":   cmdLacks,
}

func (p place) condition(name string) (bool, error) {
	switch name {
	case "plain":
		return p == plain, nil
	case "pid1":
		return p.isPID1(), nil
	case "root":
		return p.isRoot(), nil
	case "userns":
		return p == unprivileged, nil
	case "namespaces":
		return p == unprivileged || p.isRoot(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// lab is what a script has running.
type lab struct {
	place     place
	dir       string
	env       []string
	processes map[string]*process
	cgroups   []string
	t         testscript.T
}

type labKey struct{}

func labOf(ts *testscript.TestScript) *lab { return ts.Value(labKey{}).(*lab) }

func setUp(e *testscript.Env, p place) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	appPort, err := freePort()
	if err != nil {
		return err
	}
	home := filepath.Join(e.WorkDir, ".home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	if err := chownAll(e.WorkDir, p.uid()); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"BIN": binaries, "PORT": strconv.Itoa(port), "APP_PORT": strconv.Itoa(appPort), "ADDR": "127.0.0.1:" + strconv.Itoa(port),
		"HOME": home, "EVERMORE_ROOT": filepath.Join(e.WorkDir, ".evermore"),
		"EVERMORE_HTTP": "off", "EVERMORE_LOG_FORMAT": "console",
	} {
		e.Setenv(name, value)
	}
	l := &lab{place: p, dir: e.WorkDir, env: e.Vars, processes: make(map[string]*process), t: e.T()}
	e.Values[labKey{}] = l
	e.Defer(l.close)
	return nil
}

func chownAll(dir string, uid int) error {
	if uid == os.Geteuid() {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
}

// close ends what the script has left running, also what got away from its
// evermore: it carries the script's folder in its environment.
func (l *lab) close() {
	for _, dir := range l.cgroups {
		for file, thawed := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			if path := filepath.Join(dir, file); exists(path) {
				_ = os.WriteFile(path, []byte(thawed), 0)
			}
		}
	}
	for _, c := range l.processes {
		c.kill()
	}
	mark := []byte("WORK=" + l.dir)
	for range 10 {
		found := false
		entries, _ := os.ReadDir("/proc")
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			env, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
			if slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !found {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, dir := range l.cgroups {
		for range 100 {
			if os.Remove(dir) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond) // for those that are being reaped
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// run starts a command of the script.
func (l *lab) run(ts *testscript.TestScript, name string, argv []string) *process {
	c, err := l.place.launch(ts.MkAbs("."), filepath.Join(l.dir, name), l.env, argv...)
	ts.Check(err)
	return c
}

// finish waits for the end of a process, and looks at what it was.
func finish(ts *testscript.TestScript, c *process, want string) {
	code, err := c.wait()
	stdout, _ := os.ReadFile(c.stdout)
	stderr, _ := os.ReadFile(c.stderr)
	// What is long is in the file, and not for the log of the test.
	if len(stdout) < 100_000 {
		_, _ = ts.Stdout().Write(stdout)
	}
	if len(stderr) < 100_000 {
		_, _ = ts.Stderr().Write(stderr)
	}
	ts.Check(err)
	if strconv.Itoa(code) != want {
		ts.Fatalf("it ended with %d, not %s", code, want)
	}
}

func (l *lab) process(ts *testscript.TestScript, name string) *process {
	c := l.processes[name]
	if c == nil {
		ts.Fatalf("nothing was started as %q", name)
	}
	return c
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exits CODE COMMAND...")
	l := labOf(ts)
	c := l.run(ts, "exits", args[1:])
	defer c.kill()
	finish(ts, c, args[0])
}

// refusal is what evermore says before anything runs: an error, in one line or
// in forever's two, and perhaps what to do about it.
var refusal = regexp.MustCompile(`^error:   ((?:Cannot start \w+\nerror:   )?.+)\n(help:    .+\n)?$`)

func cmdRefuses(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 3, "refuses CODE REGEXP COMMAND...")
	re, err := regexp.Compile("^(?:" + args[1] + ")$")
	ts.Check(err)
	l := labOf(ts)
	c := l.run(ts, "exits", args[2:])
	defer c.kill()
	finish(ts, c, args[0])
	said, _ := os.ReadFile(c.stderr)
	m := refusal.FindSubmatch(said)
	if m == nil || !re.Match(m[1]) {
		ts.Fatalf("it does not say so")
	}
	if stdout, _ := os.ReadFile(c.stdout); len(stdout) > 0 {
		ts.Fatalf("it says something on stdout")
	}
	if exists(filepath.Join(l.dir, "spawned")) {
		ts.Fatalf("it started something")
	}
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "start NAME COMMAND...")
	l, name := labOf(ts), args[0]
	if l.processes[name] != nil {
		ts.Fatalf("%q was started already", name)
	}
	c := l.run(ts, name, args[1:])
	l.processes[name] = c
	ts.Setenv(name, strconv.Itoa(c.inside()))
	ts.Setenv(name+"_host", strconv.Itoa(c.pid()))
}

func cmdEnds(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "ends NAME CODE")
	finish(ts, labOf(ts).process(ts, args[0]), args[1])
}

func cmdRunning(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "running NAME")
	if c := labOf(ts).process(ts, args[0]); !c.running() {
		ts.Fatalf("it has ended: %s", c.cmd.ProcessState)
	}
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "signal SIGNAL NAME")
	s, err := signals.Parse(args[0])
	ts.Check(err)
	ts.Check(labOf(ts).process(ts, args[1]).signal(s))
}

func cmdInside(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) >= 2, "[!] inside NAME COMMAND...")
	l := labOf(ts)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := l.process(ts, args[0]).enter(ctx, ts.MkAbs("."), l.env, args[1:]...)
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.WaitDelay = time.Second // for who holds its output open
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		ts.Check(err)
	}
	if failed := err != nil; failed != neg {
		ts.Fatalf("it ended with: %v", err)
	}
}

// below gives the process below another one whose pid is in a file; 0: it is dead.
func below(ts *testscript.TestScript, name, file string) int {
	var pid int
	path := ts.MkAbs(file)
	if !poll(func() bool {
		text, _ := os.ReadFile(path)
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		pid = n
		return err == nil
	}) {
		ts.Fatalf("there is no pid in %s", file)
	}
	return labOf(ts).process(ts, name).outside(pid)
}

func cmdAlive(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "alive NAME FILE")
	if below(ts, args[0], args[1]) == 0 {
		ts.Fatalf("it is dead")
	}
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "gone NAME FILE")
	if !poll(func() bool { return below(ts, args[0], args[1]) == 0 }) {
		ts.Fatalf("it lives")
	}
}

// matches counts the matches in a file; a missing one has none.
func matches(ts *testscript.TestScript, file, pattern string) func() int {
	re, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	path := ts.MkAbs(file)
	return func() int {
		text, _ := os.ReadFile(path)
		return len(re.FindAll(text, -1))
	}
}

func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 || len(args) == 3, "waitfor FILE REGEXP [N]")
	want := 1
	if len(args) == 3 {
		var err error
		want, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	n := matches(ts, args[0], args[1])
	if !poll(func() bool { return n() >= want }) {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		ts.Fatalf("waited in vain: %d of %d matches in\n%s", n(), want, text)
	}
}

func cmdCount(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "count FILE REGEXP N")
	if n := matches(ts, args[0], args[1])(); strconv.Itoa(n) != args[2] {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		ts.Fatalf("%d matches, not %s, in\n%s", n, args[2], text)
	}
}

// get asks the supervisor of a test; status 0: it gave no answer.
func get(address, path string) (status int, body string) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(text)
}

// value gives a metric, such as evermore_child_up{worker="0"}, of an answer of
// /metrics; "": it is not there.
func value(metrics, name string) string {
	for line := range strings.Lines(metrics) {
		if after, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

func cmdMetric(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "metric NAME VALUE")
	var body string
	if !poll(func() bool {
		_, body = get(ts.Getenv("ADDR"), "/metrics")
		return value(body, args[0]) == args[1]
	}) {
		family, _, _ := strings.Cut(args[0], "{")
		ts.Fatalf("waited in vain: it is %q\n%s", value(body, args[0]), strings.Join(regexp.MustCompile("(?m)^"+family+".*\n").FindAllString(body, -1), ""))
	}
}

func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 || len(args) == 3, "http STATUS PATH [REGEXP]")
	re, err := regexp.Compile(strings.Join(args[2:], ""))
	ts.Check(err)
	var status int
	var body string
	if !poll(func() bool {
		status, body = get(ts.Getenv("ADDR"), args[1])
		return strconv.Itoa(status) == args[0] && re.MatchString(body)
	}) {
		ts.Fatalf("waited in vain: it answers %d\n%s", status, body)
	}
}

func cmdCgroup(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "cgroup NAME FILE...")
	l := labOf(ts)
	dir, err := newCgroup(args[1:])
	if err != nil {
		cmdLacks(ts, false, []string{err.Error()})
	}
	l.cgroups = append(l.cgroups, dir)
	ts.Setenv(args[0], dir)
}

// newCgroup makes a control group, of either version, below one that the test is
// in. It is to have one of the files, each of which begins with its controller.
func newCgroup(files []string) (dir string, err error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for mount := range strings.Lines(string(mounts)) {
		m := strings.Fields(mount) // see proc_pid_mounts(5)
		for group := range strings.Lines(string(groups)) {
			g := strings.SplitN(strings.TrimSpace(group), ":", 3) // see cgroups(7)
			second := m[2] == "cgroup2" && g[1] == ""
			if !second && (m[2] != "cgroup" || g[1] == "" || !slices.Contains(strings.Split(m[3], ","), g[1])) {
				continue
			}
			above := filepath.Join(m[1], g[2])
			for _, file := range files {
				if second {
					controller, _, _ := strings.Cut(file, ".")
					_ = os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+"+controller), 0)
				}
				if dir, err = os.MkdirTemp(above, "evermore-e2e-"); err != nil {
					continue
				}
				if exists(filepath.Join(dir, file)) {
					return dir, nil
				}
				err = fs.ErrNotExist
				_ = os.Remove(dir)
			}
		}
	}
	return "", fmt.Errorf("cannot make a control group with %s: %w", strings.Join(files, " or "), err)
}

func cmdNeeds(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "needs TOOL...")
	for _, tool := range args {
		if _, err := exec.LookPath(tool); err != nil {
			cmdLacks(ts, false, []string{tool, "is not installed"})
		}
	}
}

func cmdLacks(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "lacks REASON...")
	reason := strings.Join(args, " ")
	if os.Getenv("CI") == "true" {
		ts.Fatalf("%s", reason)
	}
	labOf(ts).t.Skip(reason)
}
