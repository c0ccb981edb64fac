package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"evermore/appfile"
	"evermore/control"
	pid1 "evermore/init"
	"evermore/node"
	"evermore/signals"
)

// parse reads a command line as a run does, up to the start. Without an error
// there are settings.
func parse(t *testing.T, env map[string]string, args ...string) (*settings, string, int) {
	t.Helper()
	s, _, said, code := call(t, env, args...)
	return s, said, code
}

// call does what a command line asks for in this process, but to start an app:
// then there are settings.
func call(t *testing.T, env map[string]string, args ...string) (started *settings, out, errs string, code int) {
	t.Helper()
	out = written(t, &os.Stdout, func() {
		errs = written(t, &os.Stderr, func() {
			s := newSettings("evermore")
			code = s.main(args, func(name string) string { return env[name] }, func(*settings) int { started = s; return 0 })
		})
	})
	return started, out, errs, code
}

// written gives what f writes to os.Stdout or os.Stderr.
func written(t *testing.T, to **os.File, f func()) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := *to
	*to = file
	defer func() { *to = before }()
	f()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sample is a value of an option and what comes of it.
type sample struct {
	value string
	got   func(*settings) any
	want  any
}

var samples = map[string]sample{
	"command":         {`node --title "a b"`, func(s *settings) any { return s.command }, []string{"node", "--title", "a b"}},
	"before":          {"npm run build", func(s *settings) any { return s.app.Before }, []string{"npm", "run", "build"}},
	"source-dir":      {"/srv", func(s *settings) any { return s.sourceDir }, "/srv"},
	"working-dir":     {"/var/lib", func(s *settings) any { return s.workingDir }, "/var/lib"},
	"user":            {"node:100", func(s *settings) any { return s.user }, "node:100"},
	"node-report":     {"true", func(s *settings) any { return s.nodeReport }, true},
	"no-new-privs":    {"true", func(s *settings) any { return s.noNewPrivs }, true},
	"umask":           {"027", func(s *settings) any { return s.umask }, 0o27},
	"pid-file":        {"app.pid", func(s *settings) any { return s.pidFile }, "app.pid"},
	"restart":         {"never", func(s *settings) any { return s.app.Policy.When }, pid1.Never},
	"max":             {"7", func(s *settings) any { return s.app.Policy.MaxRuns }, 7},
	"max-restarts":    {"3/1m", func(s *settings) any { return s.app.Policy.MaxRestarts }, pid1.Rate{N: 3, Window: time.Minute}},
	"min-uptime":      {"1234", func(s *settings) any { return s.app.Policy.MinUptime }, 1234 * time.Millisecond},
	"spin-sleep-time": {"2s", func(s *settings) any { return s.app.Policy.SpinSleepTime }, 2 * time.Second},
	"spin-sleep-max":  {"1m30s", func(s *settings) any { return s.app.Policy.SpinSleepMax }, 90 * time.Second},
	"kill-signal":     {"SIGUSR2", func(s *settings) any { return s.app.KillSignal }, syscall.SIGUSR2},
	"kill-timeout":    {"0", func(s *settings) any { return s.app.KillTimeout }, time.Duration(0)},
	"memory-aware":    {"true", func(s *settings) any { return s.memoryAware }, true},
	"npm":             {"start", func(s *settings) any { return s.npm }, "start"},
	"hold":            {"3000,unix:/s", func(s *settings) any { return s.held }, heldPorts{addresses: []node.Address{{Port: 3000}, {Path: "/s"}}}},
	"hold-timeout":    {"9s", func(s *settings) any { return s.holdTimeout }, 9 * time.Second},
	"instances":       {"4", func(s *settings) any { return s.instances }, 4},
	"instance-var":    {"N", func(s *settings) any { return s.instanceVar }, "N"},
	"reload-mode":     {"restart", func(s *settings) any { return s.reloadMode }, "restart"},
	"ready-timeout":   {"9s", func(s *settings) any { return s.readyTimeout }, 9 * time.Second},
	"drain-pause":     {"9s", func(s *settings) any { return s.drainPause }, 9 * time.Second},
	"pm2-messages":    {"true", func(s *settings) any { return s.pm2Messages }, true},
	"hang-timeout":    {"9s", func(s *settings) any { return s.app.HangTimeout }, 9 * time.Second},
	"hang-stack":      {"true", func(s *settings) any { return s.app.HangStack }, true},
	"node-metrics":    {"true", func(s *settings) any { return s.nodeMetrics }, true},
	"drain-wait":      {"5s", func(s *settings) any { return s.app.DrainWait }, 5 * time.Second},
	"grace":           {"1m", func(s *settings) any { return s.grace }, time.Minute},
	"termination-log": {"/dev/termination-log", func(s *settings) any { return s.terminationLog }, "/dev/termination-log"},
	"kill-tree":       {"false", func(s *settings) any { return s.app.KillTree }, false},
	"signal-group":    {"true", func(s *settings) any { return s.app.SignalGroup }, true},
	"stop-signal":     {"TERM,usr1", func(s *settings) any { return s.app.StopSignals }, signals.SetOf(syscall.SIGTERM, syscall.SIGUSR1)},
	"signal": {
		"TERM=INT,HUP=0", func(s *settings) any { return s.app.Rewrite },
		map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT, syscall.SIGHUP: 0},
	},
	"remap-exit":      {"143=0, 130=7", func(s *settings) any { return s.app.RemapExit }, map[int]int{143: 0, 130: 7}},
	"log-file":        {"/tmp/a.log", func(s *settings) any { return s.logFile }, "/tmp/a.log"},
	"out-file":        {"out.log", func(s *settings) any { return s.outFile }, "out.log"},
	"err-file":        {"err.log", func(s *settings) any { return s.errFile }, "err.log"},
	"append":          {"true", func(s *settings) any { return s.appendLogs }, true},
	"silent":          {"true", func(s *settings) any { return s.silent }, true},
	"http":            {"127.0.0.1:0", func(s *settings) any { return s.http }, "127.0.0.1:0"},
	"ready":           {"notify", func(s *settings) any { return s.app.Ready }, pid1.Readiness{By: pid1.ReadyNotify}},
	"live-timeout":    {"5m", func(s *settings) any { return s.app.LiveTimeout }, 5 * time.Minute},
	"watchdog":        {"30s", func(s *settings) any { return s.app.Watchdog }, 30 * time.Second},
	"log-format":      {"json", func(s *settings) any { return s.logFormat }, "json"},
	"verbose":         {"true", func(s *settings) any { return s.verbose }, true},
	"debug":           {"true", func(s *settings) any { return s.debug }, true},
	"uid":             {"web", func(s *settings) any { return s.uid }, "web"},
	"id":              {"7", func(s *settings) any { return s.id }, "7"},
	"path":            {"/tmp", func(s *settings) any { return s.path }, "/tmp"},
	"env-file":        {".env", func(s *settings) any { return s.envFiles }, []string{".env"}},
	"max-memory":      {"1.5K", func(s *settings) any { return s.app.MaxMemory }, int64(1536)},
	"max-run-time":    {"1h", func(s *settings) any { return s.app.MaxRunTime }, time.Hour},
	"cron-restart":    {"30 4 * * *", func(s *settings) any { return s.app.Schedule(time.Unix(0, 0).UTC()) }, time.Date(1970, 1, 1, 4, 30, 0, 0, time.UTC)},
	"stop-exit-codes": {"0, 143", func(s *settings) any { return s.app.Policy.StopCodes }, []int{0, 143}},
	"on-exit":         {"mail root", func(s *settings) any { return s.app.OnExit }, []string{"mail", "root"}},
	"timestamps":      {"true", func(s *settings) any { return s.timestamps }, true},
	"log-max-size":    {"10M", func(s *settings) any { return s.logMaxSize }, int64(10 << 20)},
	"log-max-files":   {"3", func(s *settings) any { return s.logMaxFiles }, 3},
	"log-compress":    {"true", func(s *settings) any { return s.logCompress }, true},
	"watch":           {"true", func(s *settings) any { return s.watch }, true},
	"watch-directory": {"lib", func(s *settings) any { return s.watchDirs }, []string{"lib"}},
	"watch-ignore":    {"*.tmp", func(s *settings) any { return s.watchIgnore }, []string{"*.tmp"}},
	"watch-all":       {"true", func(s *settings) any { return s.watchAll }, true},
	"watch-action":    {"signal:USR2", func(s *settings) any { return s.watchSignal }, syscall.SIGUSR2},
	"watch-poll":      {"1s", func(s *settings) any { return s.watchPoll }, time.Second},
	"colors":          {"true", func(s *settings) any { return s.colors }, true},
}

// Every option, in each of its spellings, as a flag and as a variable, in both
// forms.
func TestOptions(t *testing.T) {
	for i := range table {
		o := &table[i]
		sample, ok := samples[o.name]
		if !ok {
			if !o.flagOnly {
				t.Errorf("no sample of --%s", o.name)
			}
			continue
		}
		type call struct {
			env  map[string]string
			args []string
			from string
		}
		calls := []call{
			{nil, []string{"--" + o.name + "=" + sample.value}, o.label()},
			{nil, []string{"--" + camel(o.name) + "=" + sample.value}, o.label()},
			{map[string]string{o.env(): sample.value}, nil, o.env()},
			// A flag wins over its variable, which is not even read.
			{map[string]string{o.env(): "%"}, []string{"--" + o.name + "=" + sample.value}, o.label()},
		}
		if o.arg != "" {
			calls = append(calls, call{nil, []string{"--" + o.name, sample.value}, o.label()})
		} else if sample.want == true {
			calls = append(calls, call{nil, []string{"--" + o.name}, o.label()})
		}
		if o.short != "" {
			calls = append(calls, call{nil, []string{"-" + o.short + "=" + sample.value}, o.label()})
			if o.arg != "" {
				calls = append(calls,
					call{nil, []string{"-" + o.short, sample.value}, o.label()},
					call{nil, []string{"-" + o.short + sample.value}, o.label()})
			}
		}
		if o.negated {
			opposite := fmt.Sprint(sample.want == false)
			calls = append(calls,
				call{nil, []string{"--no-" + o.name + "=" + opposite}, o.label()},
				call{nil, []string{"--no-" + camel(o.name) + "=" + opposite}, o.label()})
		}
		if !o.list && sample.value != "false" {
			// Of several, the last one counts.
			calls = append(calls, call{nil, []string{"--" + o.name + "=" + other(o), "--" + o.name + "=" + sample.value}, o.label()})
		}
		for _, f := range []form{script, container} {
			rest := []string{"app.js", "--max", "x"}
			if f == container {
				rest = []string{"--", "node", "--max", "x"}
			}
			if o.scriptOnly && f == container {
				continue
			}
			for _, c := range calls {
				s, said, code := parse(t, c.env, append(c.args, rest...)...)
				if s == nil {
					t.Errorf("%q %v: code %d, %s", c.args, c.env, code, said)
					continue
				}
				if got := sample.got(s); !reflect.DeepEqual(got, sample.want) {
					t.Errorf("%q %v: got %v, want %v", c.args, c.env, got, sample.want)
				}
				if s.given[o.name] != c.from {
					t.Errorf("%q %v: given by %q, want %q", c.args, c.env, s.given[o.name], c.from)
				}
				if s.form != f || strings.Join(s.argv[1:], " ") != "--max x" {
					t.Errorf("%q: form %d, argv %q", c.args, s.form, s.argv)
				}
			}
			// An empty variable counts as not set.
			if s, said, _ := parse(t, map[string]string{o.env(): ""}, rest...); s == nil || s.isGiven(o.name) {
				t.Errorf("%s is empty: %s", o.env(), said)
			}
		}
	}
}

// other is a valid value that is not that of the sample.
func other(o *option) string {
	switch {
	case o.arg == "":
		return "false"
	case o.name == "max":
		return "99"
	case o.name == "umask":
		return "0"
	case o.name == "reload-mode":
		return reloadOverlap
	case o.name == "stop-signal", o.name == "kill-signal":
		return "HUP"
	case o.name == "restart":
		return "always"
	case o.name == "max-restarts":
		return "0"
	case o.name == "ready":
		return "uptime"
	case o.name == "log-format":
		return "console"
	case o.name == "http":
		return "off"
	case o.name == "cron-restart":
		return "@daily"
	case o.name == "watch-action":
		return "restart"
	}
	return "17"
}

func TestSwitches(t *testing.T) {
	tests := []struct {
		args string
		got  func(*settings) bool
		want bool
	}{
		{"-t", func(s *settings) bool { return s.app.KillTree }, true},
		{"--killTree", func(s *settings) bool { return s.app.KillTree }, true},
		{"--no-kill-tree", func(s *settings) bool { return s.app.KillTree }, false},
		{"--noKillTree", func(s *settings) bool { return s.app.KillTree }, false},
		{"--no-killTree --kill-tree", func(s *settings) bool { return s.app.KillTree }, true},
		{"--kill-tree --no-kill-tree", func(s *settings) bool { return s.app.KillTree }, false},
		{"-sa", func(s *settings) bool { return s.silent && s.appendLogs }, true},
		{"-sgvd", func(s *settings) bool { return s.silent && s.app.SignalGroup && s.verbose && s.debug }, true},
		{"-a=false", func(s *settings) bool { return s.appendLogs }, false},
		{"--append=F", func(s *settings) bool { return s.appendLogs }, false},
		{"--plain", func(s *settings) bool { return s.isGiven("colors") && !s.colors }, true},
		{"--no-color", func(s *settings) bool { return s.isGiven("colors") && !s.colors }, true},
		{"--no-colors --color", func(s *settings) bool { return s.colors }, true},
		{"", func(s *settings) bool { return s.isGiven("colors") }, false},
	}
	for _, test := range tests {
		s, said, _ := parse(t, nil, append(strings.Fields(test.args), "app.js")...)
		if s == nil || test.got(s) != test.want {
			t.Errorf("%s: want %v; %s", test.args, test.want, said)
		}
	}
}

// Lists add up, by the flag and within one value; a variable is not added to flags.
func TestLists(t *testing.T) {
	env := map[string]string{"EVERMORE_REMAP_EXIT": "1=2", "EVERMORE_SIGNAL": "USR1=USR2"}
	s, said, _ := parse(t, env, "--remap-exit", "143=0", "--signal", "TERM=INT", "--remap-exit", "130=0,143=1", "--", "node")
	if s == nil {
		t.Fatal(said)
	}
	if want := map[int]int{143: 1, 130: 0}; !reflect.DeepEqual(s.app.RemapExit, want) {
		t.Errorf("got %v, want %v", s.app.RemapExit, want)
	}
	if want := map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT}; !reflect.DeepEqual(s.app.Rewrite, want) {
		t.Errorf("got %v, want %v", s.app.Rewrite, want)
	}
}

// The defaults of the two doors, as DESIGN has them.
func TestDefaults(t *testing.T) {
	want := map[form]pid1.Policy{
		container: {
			When: pid1.OnFailure, MinUptime: 10 * time.Second, SpinSleepTime: 100 * time.Millisecond,
			SpinSleepMax: 30 * time.Second, MaxRestarts: pid1.Rate{N: 5, Window: 10 * time.Minute},
		},
		script: {When: pid1.Always, MinUptime: time.Second},
	}
	for f, args := range map[form][]string{container: {"--", "node", "app.js"}, script: {"app.js"}} {
		s, said, _ := parse(t, nil, args...)
		if s == nil {
			t.Fatal(said)
		}
		if !reflect.DeepEqual(s.app.Policy, want[f]) {
			t.Errorf("form %d: policy %+v, want %+v", f, s.app.Policy, want[f])
		}
		got := fmt.Sprintf("http %q, kill %v after %v, tree %v, group %v, stop %v, live %v, watchdog %v, ready %v, append %v, silent %v, umask %d, privs %v",
			s.http, int(s.app.KillSignal), s.app.KillTimeout, s.app.KillTree, s.app.SignalGroup, s.app.StopSignals, s.app.LiveTimeout,
			s.app.Watchdog, s.app.Ready.By, s.appendLogs, s.silent, s.umask, s.noNewPrivs)
		expected := map[form]string{
			container: `http ":9797", kill 0 after 8s, tree true, group false, stop SIGINT,SIGQUIT,SIGTERM, live 10m0s, watchdog 0s, ready 0, append true, silent false, umask -1, privs false`,
			script:    `http "", kill 0 after 10s, tree true, group false, stop SIGINT,SIGQUIT,SIGTERM, live 10m0s, watchdog 0s, ready 0, append false, silent false, umask -1, privs false`,
		}[f]
		if got != expected {
			t.Errorf("form %d:\n got %s\nwant %s", f, got, expected)
		}
		if len(s.given) > 0 {
			t.Errorf("form %d: given %v", f, s.given)
		}
	}
}

// What Kubernetes adds for a Service named evermore, what is no option, and what
// goes with the other form: all of it is passed over in silence.
func TestOtherVariables(t *testing.T) {
	env := map[string]string{
		"EVERMORE_SERVICE_HOST": "10.0.0.1", "EVERMORE_SERVICE_PORT": "9797", "EVERMORE_PORT": "tcp://10.0.0.1:9797",
		"EVERMORE_PORT_9797_TCP_ADDR": "10.0.0.1", "EVERMORE_ROOT": "/nowhere", "EVERMORE_HELP": "true", "EVERMORE_VERSION": "9",
		"EVERMORE_COMMAND": "bun", "EVERMORE_SOURCE_DIR": "/nowhere", "max": "3", "uid": "x",
	}
	s, said, _ := parse(t, env, "--", "node")
	if s == nil || said != "" || len(s.given) > 0 {
		t.Errorf("%+v: %s", s, said)
	}
	// No option may take such a name.
	kubernetes := regexp.MustCompile(`^EVERMORE_(.*_)?(PORT|SERVICE_HOST|SERVICE_PORT)(_|$)`)
	for i := range table {
		if kubernetes.MatchString(table[i].env()) {
			t.Errorf("%s is a variable of Kubernetes for some Service", table[i].env())
		}
	}
}

func TestUsageErrors(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"--min-uptime 2x app.js", `--min-uptime: cannot read "2x" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"--minUptime 2x app.js", `--min-uptime: cannot read "2x" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"EVERMORE_MIN_UPTIME=2x app.js", `EVERMORE_MIN_UPTIME: cannot read "2x" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"--spinSleepTime -5 app.js", `--spin-sleep-time: cannot read "-5" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"--spin-sleep-max=-5s app.js", `--spin-sleep-max: cannot take "-5s" as a time: it is negative`},
		{"--kill-timeout 9223372036855 app.js", `--kill-timeout: cannot take "9223372036855" as a time: it is more than 292 years`},
		{"--live-timeout 3000000h app.js", `--live-timeout: cannot read "3000000h" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"--watchdog x app.js", `--watchdog: cannot read "x" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"-m -1 app.js", `-m/--max: cannot read "-1" as a number of runs: use a whole number such as 5`},
		{"-m abc app.js", `-m/--max: cannot read "abc" as a number of runs: use a whole number such as 5`},
		{"--max= app.js", `-m/--max: cannot read "" as a number of runs: use a whole number such as 5`},
		{"EVERMORE_MAX=1.5 app.js", `EVERMORE_MAX: cannot read "1.5" as a number of runs: use a whole number such as 5`},
		{"--max-restarts 5 app.js", `--max-restarts: cannot read "5" as a rate: a window after a slash is missing (such as 5/10m; 0 for no limit)`},
		{"--max-restarts 5/0 app.js", `--max-restarts: cannot read "5/0" as a rate: the window after the slash is no time above 0 (such as 5/10m; 0 for no limit)`},
		{"--restart sometimes app.js", `--restart: unknown restart policy "sometimes": use always, on-failure or never`},
		{"--kill-signal NOPE app.js", `--kill-signal: unknown signal "NOPE": use a name such as TERM or RTMIN+1, or a number from 1 to 64`},
		{"--kill-signal 0 app.js", `--kill-signal: unknown signal "0": use a name such as TERM or RTMIN+1, or a number from 1 to 64`},
		{"--kill-signal 33 app.js", `--kill-signal: signal 33 ends nothing: C libraries use it for their threads`},
		{"--stop-signal TERM,KILL app.js", `--stop-signal: SIGKILL cannot mean stop: no process can catch it`},
		{"--stop-signal= app.js", `--stop-signal: no signal given: use a list such as TERM,INT`},
		{"--signal TERM app.js", `--signal: cannot read "TERM" as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal`},
		{"--signal KILL=TERM app.js", `--signal: cannot rewrite "KILL=TERM": SIGKILL is never forwarded, no process can catch it`},
		{"EVERMORE_SIGNAL=TERM=INT,X app.js", `EVERMORE_SIGNAL: cannot read "X" as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal`},
		{"--remap-exit 256=0 app.js", `--remap-exit: cannot read "256=0" as two exit codes: use A=B, each from 0 to 255, such as 143=0`},
		{"--remap-exit 143 app.js", `--remap-exit: cannot read "143" as two exit codes: use A=B, each from 0 to 255, such as 143=0`},
		{"--umask 8 app.js", `--umask: cannot read "8" as a mask of permissions: use an octal number from 0 to 777 such as 027`},
		{"--umask 1000 app.js", `--umask: cannot read "1000" as a mask of permissions: use an octal number from 0 to 777 such as 027`},
		{"--http nope app.js", `--http: cannot read "nope" as an address: missing port in address (use HOST:PORT, PORT or off)`},
		{"--http 99999 app.js", `--http: cannot read "99999" as an address: its port is no number from 0 to 65535 (use HOST:PORT, PORT or off)`},
		{"--http http://h:1/x app.js", `--http: cannot read "http://h:1/x" as an address: too many colons in address (use HOST:PORT, PORT or off)`},
		{"--ready soon app.js", `--ready: cannot read "soon" as a readiness: use uptime, listening, message, notify or a URL such as http://127.0.0.1:3000/health`},
		{"--append=maybe app.js", `-a/--append: cannot read "maybe" as yes or no: use true or false`},
		{"EVERMORE_SILENT=2 app.js", `EVERMORE_SILENT: cannot read "2" as yes or no: use true or false`},
		{"--no-kill-tree=2 app.js", `--no-kill-tree: cannot read "2" as yes or no: use true or false`},
		{"--log-format xml app.js", `--log-format: unknown format "xml": use console or json`},
		{"--command= app.js", `-c/--command: the command is empty`},
		{`--before ' app.js`, `--before: cannot read "'" as a command: a quote is not closed`},
		{`--before \ app.js`, `--before: cannot read "\\" as a command: it ends in a backslash`},
		{"--user= app.js", `--user: the value is empty`},
		{"--working-dir= app.js", `--working-dir: the value is empty`},
		{"--logFile= app.js", `-l/--log-file: the value is empty`},
		{"--max", `-m/--max: a value is missing: use --max N`},
		{"-m", `-m/--max: a value is missing: use --max N`},
		{"--bogus app.js", `unknown option --bogus`},
		{"--minUptme 5 app.js", `unknown option --minUptme: did you mean --min-uptime?`},
		{"--kil-timeout 5 app.js", `unknown option --kil-timeout: did you mean --kill-timeout?`},
		{"--work /tmp app.js", `unknown option --work: did you mean --working-dir?`},
		{"--no-color5 app.js", `unknown option --no-color5: did you mean --no-colors?`},
		{"-x app.js", `unknown option -x`},
		{"-sx app.js", `unknown option -x`},
		{"--=x app.js", `cannot read "--=x" as an option`},
		{"---max app.js", `cannot read "---max" as an option`},
		{"--", `no COMMAND after --: an image whose ENTRYPOINT is ["/evermore", "--"] needs a CMD`},
		{"--max 3 --", `no COMMAND after --: an image whose ENTRYPOINT is ["/evermore", "--"] needs a CMD`},
		{"-v", `no SCRIPT and no -- COMMAND: there is nothing to run`},
		{"-c node -- node app.js", `-c/--command goes with a SCRIPT: with -- the COMMAND is what runs`},
		{"--sourceDir /srv -- node app.js", `--source-dir goes with a SCRIPT: with -- the COMMAND is what runs`},
		{"completion", "completion is for one shell: bash, zsh, fish"},
		{"completion bash zsh", "completion is for one shell: bash, zsh, fish"},
		{"completion tcsh", `unknown shell "tcsh": use bash, zsh, fish`},
		{"health now", `health takes no argument: "now"`},
		{"health --live --ready", `--live and --ready ask for two things: choose one`},
		{"health --redy", `unknown option --redy: did you mean --ready?`},
		{"health --max 3", `unknown option --max`},
		{"health --timeout 2x", `--timeout: cannot read "2x" as a time: use milliseconds (1500) or a unit (1.5s)`},
		{"health --http", `--http: a value is missing: use --http ADDRESS`},
		{"EVERMORE_HTTP=x health", `EVERMORE_HTTP: cannot read "x" as an address: missing port in address (use HOST:PORT, PORT or off)`},
	}
	for _, test := range tests {
		env := map[string]string{}
		args := strings.Fields(test.args)
		for len(args) > 0 && strings.HasPrefix(args[0], "EVERMORE_") {
			name, value, _ := strings.Cut(args[0], "=")
			env[name], args = value, args[1:]
		}
		s, said, code := parse(t, env, args...)
		want := "error:   " + test.want + "\nhelp:    evermore --help shows the options\n"
		if s != nil || code != codeUsage || said != want {
			t.Errorf("%s: code %d\n got %swant %s", test.args, code, said, want)
		}
	}
	// Fields can't write these.
	if _, said, code := parse(t, nil, ""); code != codeUsage || !strings.Contains(said, "the name of what is to run is empty") {
		t.Errorf("code %d, %s", code, said)
	}
	if _, said, code := parse(t, nil, "--", ""); code != codeUsage || !strings.Contains(said, "the name of what is to run is empty") {
		t.Errorf("code %d, %s", code, said)
	}
}

// Options end at SCRIPT and at --; only a first word is a command.
func TestWhereOptionsEnd(t *testing.T) {
	tests := []struct {
		args string
		form form
		argv string
	}{
		{"app.js -m 3 --help", script, "app.js -m 3 --help"},
		{"-m 3 app.js -- -m 4", script, "app.js -- -m 4"},
		{"-m 3 -- app.js -- -m 4", container, "app.js -- -m 4"},
		{"-- health", container, "health"},
		{"-- --max", container, "--max"},
		{"./health", script, "./health"},
		{"-v health", script, "health"},
		{"-l completion app.js health", script, "app.js health"},
		{"app.js help", script, "app.js help"},
		{"-- __complete x", container, "__complete x"},
		{"-", script, "-"},
	}
	for _, test := range tests {
		s, said, _ := parse(t, nil, strings.Fields(test.args)...)
		if s == nil {
			t.Errorf("%s: %s", test.args, said)
			continue
		}
		if got := strings.Join(s.argv, " "); got != test.argv || s.form != test.form {
			t.Errorf("%s: form %d, argv %q", test.args, s.form, got)
		}
	}
}

// A slip in the table would be a panic of pflag, or an option that nobody can set.
func TestTable(t *testing.T) {
	for name, table := range map[string][]option{"run": table, "health": healthTable} {
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		newSettings("evermore").flags(set, table)
		for i := range table {
			o := &table[i]
			if (o.set == nil) == (o.on == nil) || (o.arg == "") != (o.on != nil) {
				t.Errorf("%s: --%s is neither a switch nor has it a value", name, o.name)
			}
			if o.name != kebab(camel(o.name)) || o.name != kebab(o.name) {
				t.Errorf("%s: --%s is no kebab-case", name, o.name)
			}
			if set.Lookup(camel(o.name)) == nil {
				t.Errorf("%s: --%s is not known", name, camel(o.name))
			}
			if o.help == "" || strings.HasSuffix(o.help, ".") {
				t.Errorf("%s: the help of --%s: %q", name, o.name, o.help)
			}
			for f, text := range o.defaults {
				if text != "" {
					if err := o.read(newSettings("evermore"), text); err != nil {
						t.Errorf("%s: the default of --%s for form %d: %v", name, o.name, f, err)
					}
				}
			}
		}
	}
	// forever's own spellings, from its help.
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	newSettings("forever").flags(set, table)
	for _, name := range strings.Fields("max logFile outFile errFile append command pidFile sourceDir workingDir " +
		"minUptime spinSleepTime colors no-colors plain debug verbose silent killTree killSignal version help") {
		if set.Lookup(name) == nil {
			t.Errorf("forever's --%s is not known", name)
		}
	}
	for short, name := range map[string]string{
		"m": "max", "l": "log-file", "o": "out-file", "e": "err-file", "c": "command",
		"a": "append", "d": "debug", "v": "verbose", "s": "silent", "t": "kill-tree", "h": "help",
	} {
		if f := set.ShorthandLookup(short); f == nil || f.Name != name {
			t.Errorf("-%s is not --%s", short, name)
		}
	}
}

// docs/options.md is made from the table.
func TestDocument(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# The options of evermore\n\n" +
		"This table is made from the one in `cli/options.go`: `go test ./cli -update` writes it.\n\n" +
		"Options stand before `SCRIPT` or `--`. forever's spelling means the same (`--minUptime`). An option wins over its\n" +
		"variable, and that over the default. TIME is in milliseconds (`1500`) or has a unit (`1.5s`, `2m`).\n" +
		"A relative FILE is in the current folder; with `SCRIPT`, `-l` and `--pid-file` are in evermore's own folder, as\n" +
		"forever's are: `EVERMORE_ROOT`, `FOREVER_ROOT` or `~/.evermore`, and where no such folder can be written\n" +
		"`XDG_RUNTIME_DIR/evermore`, `/run/evermore` or `/dev/shm/evermore-UID`. A variable of an option that can be given\n" +
		"several times, or takes a list, has commas: `EVERMORE_SIGNAL=HUP=USR2,USR1=0`.\n")
	cell := strings.NewReplacer("|", `\|`).Replace
	code := func(text string) string {
		if text == "" {
			return ""
		}
		return "`" + cell(text) + "`"
	}
	group := ""
	for i := range table {
		o := &table[i]
		if o.group != group {
			group = o.group
			b.WriteString("\n## " + group + "\n\n| option | variable | with `-- COMMAND` | with `SCRIPT` | meaning |\n|---|---|---|---|---|\n")
		}
		c := cell(o.defaultText(container))
		if o.scriptOnly {
			c = "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			code(strings.TrimSpace(o.synopsis())), code(o.env()), c, cell(o.defaultText(script)), cell(o.help))
	}
	golden(t, "../docs/options.md", b.String())
}

// The names that a shell is offered.
func TestNearest(t *testing.T) {
	for name, want := range map[string]string{
		"max": "max", "mx": "max", "maxx": "max", "append": "append", "no-append": "no-append", "plane": "plain",
		"signl": "signal", "zzzzzz": "", "x": "", "": "",
	} {
		if got := nearestOption(name, table); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestMostInstances(t *testing.T) {
	for _, c := range []struct {
		processors int
		limit      float64
		limited    bool
		want       int
	}{
		{8, 0, false, 8},
		{8, 2, true, 2},
		{8, 1.5, true, 2},
		{8, 0.1, true, 1},
		{2, 4, true, 2},
		{4096, 0, false, control.MaxInstances},
	} {
		if got := mostInstances(c.processors, c.limit, c.limited); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

// What pm2's keys become is there.
func TestPM2Options(t *testing.T) {
	for _, k := range appfile.PM2Keys() {
		if k.Option == "" || k.Option == "environment" || strings.ToUpper(k.Option) == k.Option {
			continue
		}
		if !slices.ContainsFunc(table, func(o option) bool { return o.name == k.Option && !o.flagOnly }) {
			t.Errorf("%s becomes --%s, which there is not", k.Key, k.Option)
		}
	}
}
