package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"evermore/early"
	pid1 "evermore/init"
	"evermore/reaper"
	"evermore/signals"
)

// resolve gives the options of a command line, by the environment of the test.
func resolve(t *testing.T, args ...string) (*settings, pid1.Options, error) {
	t.Helper()
	s := newSettings("evermore")
	called := false
	if code := s.main(args, os.Getenv, func(*settings) int { called = true; return 0 }); !called {
		t.Fatalf("%q: code %d", args, code)
	}
	o, err := s.options()
	return s, o, err
}

// place is a folder with an app, where the test then is; the PATH has a node
// that is no node.
func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin", "app", "app/lib", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"app/server.js", "app/with space.js", "app/lib/worker.js"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/node"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir + "/app")
	t.Setenv("PATH", dir+"/empty:"+dir+"/bin")
	t.Setenv("EVERMORE_ROOT", dir+"/root")
	return dir
}

func TestCommandLine(t *testing.T) {
	dir := place(t)
	expand := strings.NewReplacer("$DIR", dir, "$NODE", dir+"/bin/node").Replace
	tests := []struct {
		args []string
		argv []string
		dir  string
	}{
		{[]string{"server.js", "-m", "x y"}, []string{"$NODE", "$DIR/app/server.js", "-m", "x y"}, ""},
		{[]string{"./lib/../server.js"}, []string{"$NODE", "$DIR/app/server.js"}, ""},
		{[]string{"with space.js"}, []string{"$NODE", "$DIR/app/with space.js"}, ""},
		{[]string{"."}, []string{"$NODE", "$DIR/app"}, ""},
		{[]string{"$DIR/app/server.js"}, []string{"$NODE", "$DIR/app/server.js"}, ""},
		{[]string{"--source-dir", "lib", "worker.js"}, []string{"$NODE", "$DIR/app/lib/worker.js"}, "lib"},
		{[]string{"--sourceDir", "$DIR/app/lib", "worker.js"}, []string{"$NODE", "$DIR/app/lib/worker.js"}, "$DIR/app/lib"},
		// forever looks for /srv/srv/app/server.js.
		{[]string{"--source-dir", "lib", "$DIR/app/server.js"}, []string{"$NODE", "$DIR/app/server.js"}, "lib"},
		{[]string{"--working-dir", "lib", "server.js"}, []string{"$NODE", "$DIR/app/server.js"}, "lib"},
		{[]string{"--source-dir", "lib", "--workingDir", "..", "worker.js"}, []string{"$NODE", "$DIR/app/lib/worker.js"}, ".."},
		{[]string{"-c", `node --title "a b"`, "server.js"}, []string{"node", "--title", "a b", "$DIR/app/server.js"}, ""},
		{[]string{"-c", "npm start", "./"}, []string{"npm", "start", "$DIR/app/"}, ""},
		{[]string{"--", "npm", "start", "--", "-x"}, []string{"npm", "start", "--", "-x"}, ""},
		{[]string{"--working-dir", "lib", "--", "./worker.js"}, []string{"./worker.js"}, "lib"},
	}
	for _, test := range tests {
		for i := range test.args {
			test.args[i] = expand(test.args[i])
		}
		for i := range test.argv {
			test.argv[i] = expand(test.argv[i])
		}
		_, o, err := resolve(t, test.args...)
		if err != nil || !slices.Equal(o.Command.Argv, test.argv) || o.Command.Dir != expand(test.dir) {
			t.Errorf("%q: %v\n got %q in %q\nwant %q in %q", test.args, err, o.Command.Argv, o.Command.Dir, test.argv, expand(test.dir))
		}
	}
}

// What can't be done is told before anything is started.
func TestStartErrors(t *testing.T) {
	dir := place(t)
	if err := os.WriteFile("old.log", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/root", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/root/kept.log", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	forever, evermore := called(t, "forever"), called(t, "evermore")
	const usageHint = "help:    evermore --help shows the options\n"
	tests := []struct {
		program string
		args    []string
		code    int
		want    string
	}{
		{evermore, []string{"nope.js"}, 255, "error:   Cannot start evermore\nerror:   script $DIR/app/nope.js does not exist.\n"},
		{forever, []string{"nope.js"}, 255, "error:   Cannot start forever\nerror:   script $DIR/app/nope.js does not exist.\n"},
		{forever, []string{"/nope.js"}, 255, "error:   Cannot start forever\nerror:   script /nope.js does not exist.\n"},
		{evermore, []string{"server.js/x"}, 255, "error:   Cannot start evermore\nerror:   script $DIR/app/server.js/x does not exist.\n"},
		{evermore, []string{"-v", "health"}, 255, "error:   Cannot start evermore\nerror:   script $DIR/app/health does not exist.\n" +
			"help:    health comes first when it is a command: evermore health\n"},
		{evermore, []string{"node", "server.js"}, 255, "error:   Cannot start evermore\nerror:   script $DIR/app/node does not exist.\n" +
			"help:    to run a command: evermore -- node server.js\n"},
		{evermore, []string{"-l", "kept.log", "server.js"}, 255, "error:   Cannot start evermore\n" +
			"error:   log file $DIR/root/kept.log exists. Use the -a or --append option to append log.\n"},
		{evermore, []string{"--no-append", "-l", "old.log", "--", "true"}, 255, "error:   Cannot start evermore\n" +
			"error:   log file $DIR/app/old.log exists. Use the -a or --append option to append log.\n"},
		{evermore, []string{"--working-dir", "nope", "server.js"}, 2, "error:   --working-dir: cannot enter nope: no such file or directory\n" + usageHint},
		{evermore, []string{"--working-dir", "server.js", "server.js"}, 2, "error:   --working-dir: cannot enter server.js: not a directory\n" + usageHint},
		{evermore, []string{"--source-dir", "nope", "server.js"}, 255, "error:   Cannot start evermore\n" +
			"error:   script $DIR/app/nope/server.js does not exist.\n"},
		{evermore, []string{"--user", "no such", "server.js"}, 2, "error:   --user: unknown user \"no such\"\n" + usageHint},
		{evermore, []string{"--user", "0:no such", "server.js"}, 2, "error:   --user: unknown group \"no such\"\n" + usageHint},
		{evermore, []string{"--min-uptime", "2x", "server.js"}, 2, "error:   --min-uptime: cannot read \"2x\" as a time: use milliseconds (1500) or a unit (1.5s)\n" + usageHint},
	}
	for _, test := range tests {
		out, errs, code := execute(t, nil, append([]string{test.program}, test.args...)...)
		want := strings.ReplaceAll(test.want, "$DIR", dir)
		if out != "" || errs != want || code != test.code {
			t.Errorf("%q: code %d, stdout %q\n got %q\nwant %q", test.args, code, out, errs, want)
		}
	}
	if _, err := os.Stat(reaper.DistrolessNode); err != nil {
		_, errs, code := execute(t, []string{"PATH=/nowhere:" + dir + "/empty"}, evermore, "server.js")
		want := "error:   cannot find node in the PATH (/nowhere:" + dir + "/empty)\nhelp:    -c COMMAND runs the script with another\n"
		if code != 127 || errs != want {
			t.Errorf("no node: code %d, %q", code, errs)
		}
	}
	// A variable is named when it is at fault.
	_, errs, code := execute(t, []string{"EVERMORE_WORKING_DIR=nope"}, evermore, "server.js")
	if want := "error:   EVERMORE_WORKING_DIR: cannot enter nope: no such file or directory\n" + usageHint; errs != want || code != 2 {
		t.Errorf("code %d, %q", code, errs)
	}
	// Nothing is written where nothing was started.
	if _, err := os.Stat("nope.js"); err == nil {
		t.Error("nope.js was made")
	}
}

// A folder whose execute bit is missing can be seen but not entered.
func TestClosedFolder(t *testing.T) {
	dir := place(t)
	if err := os.Mkdir("closed", 0o600); err != nil {
		t.Fatal(err)
	}
	evermore := called(t, "evermore")
	cmd := exec.Command(evermore, "--working-dir", "closed", "server.js")
	if os.Geteuid() == 0 {
		cmd = asNobody(t, dir, cmd)
	}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "error:   --working-dir: cannot enter closed: permission denied\n") {
		t.Errorf("%v, %s", err, out)
	}
}

// asNobody has a command run as uid 65534, and opens the way to it and to dir.
func asNobody(t *testing.T, dir string, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, cmd.Path, self} {
		for at := filepath.Dir(path); at != "/" && at != "."; at = filepath.Dir(at) {
			if info, err := os.Stat(at); err == nil && info.Mode().Perm()&0o001 == 0 {
				if err := os.Chmod(at, info.Mode().Perm()|0o011); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.Chmod(at, info.Mode().Perm()) })
			}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

func TestFiles(t *testing.T) {
	dir := place(t)
	expand := strings.NewReplacer("$DIR", dir).Replace
	tests := []struct {
		args string
		want string // log, out, err and pid file
	}{
		{"-l a.log -o out.log -e err.log --pid-file p server.js", "$DIR/root/a.log $DIR/app/out.log $DIR/app/err.log $DIR/root/pids/p"},
		{"-l a.log -o out.log -e err.log --pid-file p -- node", "$DIR/app/a.log $DIR/app/out.log $DIR/app/err.log $DIR/app/p"},
		{"-l /x/a.log -o /x/o -e ../e --pidFile /x/p server.js", "/x/a.log /x/o $DIR/e /x/p"},
		{"--source-dir lib --working-dir lib -o o -l a.log worker.js", "$DIR/root/a.log $DIR/app/o  "},
		{"-l /dev/null server.js", "/dev/null   "},
		{"server.js", "   "},
	}
	for _, test := range tests {
		s, _, err := resolve(t, strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		if got := strings.Join([]string{s.logFile, s.outFile, s.errFile, s.pidFile}, " "); got != expand(test.want) {
			t.Errorf("%s:\n got %s\nwant %s", test.args, got, expand(test.want))
		}
	}
	if info, err := os.Stat(dir + "/root/pids"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("pids: %v, %v", info, err)
	}
}

// A working directory that was deleted is no reason not to run.
func TestDeletedFolder(t *testing.T) {
	dir := place(t)
	if err := os.Mkdir("gone", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir("gone")
	if err := os.Remove(dir + "/app/gone"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PWD", "")
	_, o, err := resolve(t, dir+"/app/server.js")
	if want := []string{dir + "/bin/node", dir + "/app/server.js"}; err != nil || !slices.Equal(o.Command.Argv, want) {
		t.Errorf("got %q, %v", o.Command.Argv, err)
	}
	if _, _, err := resolve(t, "server.js"); err == nil || !strings.HasSuffix(err.Error(), "script server.js does not exist.") {
		t.Errorf("got %v", err)
	}
}

func TestOptionsOfTheApp(t *testing.T) {
	place(t)
	s, o, err := resolve(t, "--no-kill-tree", "--no-new-privs", "--remap-exit", "143=0", "--stop-signal", "USR1", "server.js")
	if err != nil {
		t.Fatal(err)
	}
	// The terminal of who runs the test decides about the group.
	c := o.Command
	if c.EndGroup || !c.NoNewPrivs || !c.DieWithParent || c.OwnGroup == o.Terminal || c.User != nil || c.Files != nil {
		t.Errorf("got %+v", c)
	}
	if o.KillTree || o.StopSignals != signals.SetOf(syscall.SIGUSR1) || !reflect.DeepEqual(o.RemapExit, map[int]int{143: 0}) {
		t.Errorf("got %+v", o)
	}
	if s.logFormat != "console" {
		t.Errorf("log format %q", s.logFormat)
	}
	if s, o, err := resolve(t, "--", "node"); err != nil || !o.Command.EndGroup || s.logFormat == "json" == isTerminal(2) {
		t.Errorf("-- node: %v, %q", err, s.logFormat)
	}
	if s, _, err := resolve(t, "--log-format", "console", "--", "node"); err != nil || s.logFormat != "console" {
		t.Errorf("--log-format console: %v, %q", err, s.logFormat)
	}
}

// What package early starts without the command line is what the command line
// would have started.
func TestEarly(t *testing.T) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "EVERMORE_") {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	args := []string{"--", "node", "server.js", "--max", "3"}
	got, ok := early.Command(append([]string{"evermore"}, args...), os.Environ())
	if !ok {
		t.Fatal("it is left to the command line")
	}
	_, o, err := resolve(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	want := o.Command
	want.Files = []uintptr{0, 1, 2}
	want.OwnGroup = true // there is no terminal
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// A controlling terminal, which early leaves to the command line, adds HUP.
	if got := o.StopSignals; got != signals.Stop && got != signals.Stop.With(syscall.SIGHUP) {
		t.Errorf("stop signals %v, early has %v", got, signals.Stop)
	}
	if len(o.Before) > 0 || len(o.Rewrite) > 0 || o.SignalGroup || o.Ready.By == pid1.ReadyNotify {
		t.Errorf("early knows nothing of %+v", o)
	}
}

func TestWarnings(t *testing.T) {
	place(t)
	const uptime, sleep = "--minUptime not set. Defaulting to: 1000ms", "--spinSleepTime not set. Your script will exit if it does not stay up for at least %dms"
	tests := []struct {
		args string
		env  string
		want []string
	}{
		{"server.js", "", []string{uptime, fmt.Sprintf(sleep, 1000)}},
		{"--minUptime 100 server.js", "", []string{fmt.Sprintf(sleep, 100)}},
		{"--spinSleepTime 5 server.js", "", []string{uptime}},
		{"--spinSleepTime 0 --min-uptime 2s server.js", "", nil},
		{"--min-uptime 2s server.js", "EVERMORE_SPIN_SLEEP_TIME=5", nil},
		{"-- server.js", "", nil},
	}
	for _, test := range tests {
		name, value, _ := strings.Cut(test.env, "=")
		s, said, _ := parse(t, map[string]string{name: value}, strings.Fields(test.args)...)
		if s == nil {
			t.Fatal(said)
		}
		if got := s.warnings(); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.args, got, test.want)
		}
	}
}

func TestChildEnv(t *testing.T) {
	environ := []string{
		"PATH=/bin", "HOME=/root", "USER=root", "LOGNAME=root", "EVERMORE_MAX=3", "EVERMORE_KILL_TREE=true", "EVERMORE_SILENT=",
		"EVERMORE_ROOT=/srv", "EVERMORE_SERVICE_HOST=10.0.0.1", "EVERMORE_VERSION=1", "EVERMORE=1", "NOTIFY_SOCKET=/run/x",
		"WATCHDOG_USEC=1", "WATCHDOG_PID=1", "LISTEN_PID=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "EMPTY=", "ODD", "MULTI=a=b\nc",
		"INVOCATION_ID=1",
	}
	kept := []string{
		"EVERMORE_ROOT=/srv", "EVERMORE_SERVICE_HOST=10.0.0.1", "EVERMORE_VERSION=1", "EVERMORE=1", "EMPTY=", "ODD",
		"MULTI=a=b\nc", "INVOCATION_ID=1",
	}
	s := newSettings("evermore")
	if got, want := s.childEnv(environ, identity{}), append([]string{"PATH=/bin", "HOME=/root", "USER=root", "LOGNAME=root"}, kept...); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	want := slices.Concat([]string{"PATH=/bin"}, kept, []string{"HOME=/home/node", "USER=node", "LOGNAME=node"})
	if got := s.childEnv(environ, identity{name: "node", home: "/home/node"}); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// On a terminal of its own evermore shares its group with the app, and the
// terminal may hang up; without one, and in the background, it does not.
func TestTerminal(t *testing.T) {
	program := called(t, "terminal")
	cmd := exec.Command(program)
	tty, err := pty.Start(cmd)
	if err != nil {
		missing(t, "a terminal", err)
	}
	defer tty.Close()
	out, _ := io.ReadAll(tty) // EIO when the last program has gone
	cmd.Wait()
	const want = "foreground true, controlling terminal true, stop signals SIGHUP,SIGINT,SIGQUIT,SIGTERM true false <nil>"
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("foreground:\n got %s\nwant %s", got, want)
	}

	// A new session has no terminal, though stdin is one.
	_, replica, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	cmd = exec.Command(program)
	cmd.Stdin = replica
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	got, err := cmd.Output()
	if want := "foreground false, controlling terminal false, stop signals SIGINT,SIGQUIT,SIGTERM false true <nil>\n"; err != nil || string(got) != want {
		t.Errorf("no controlling terminal: %v\n got %swant %s", err, got, want)
	}
}

func TestFailureCodes(t *testing.T) {
	s := newSettings("evermore")
	tests := []struct {
		err  error
		code int
		want string
	}{
		{errors.New("plain"), 1, "error:   plain\n"},
		{fmt.Errorf("wrapped: %w", usage("wrong")), 2, "error:   wrapped: wrong\nhelp:    evermore --help shows the options\n"},
		{&failure{127, errors.New("gone"), "look elsewhere"}, 127, "error:   gone\nhelp:    look elsewhere\n"},
		{s.cannotStart("", "because of %s", "it"), 255, "error:   Cannot start evermore\nerror:   because of it\n"},
	}
	for _, test := range tests {
		var code int
		if said := written(t, &os.Stderr, func() { code = s.fail(test.err) }); said != test.want || code != test.code {
			t.Errorf("%v: code %d, %q", test.err, code, said)
		}
	}
}
