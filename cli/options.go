package cli

import (
	"maps"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	pid1 "evermore/init"
	"evermore/signals"
)

// form is the way in which evermore was called. The defaults go by it, never by
// the pid: under "docker run --init" nothing changes.
type form int

const (
	container form = iota // evermore -- COMMAND
	script                // evermore SCRIPT
)

// option is one row of the table that makes the flags, the variables, the help,
// the completion of shells and docs/options.md.
type option struct {
	name  string // canonical, in kebab-case; its camelCase means the same
	short string // one letter
	group string
	arg   string // what the value is called; "": a switch
	help  string

	// set reads a value; on is where a switch is kept. Each row has one of them.
	set func(*settings, string) error
	on  func(*settings) *bool
	// negated adds --no-NAME to a switch.
	negated bool
	// list says that the option may be given several times, and that its
	// variable may hold several values with commas between them.
	list bool
	// scriptOnly says that the option means nothing with "-- COMMAND".
	scriptOnly bool
	// flagOnly says that no variable and no key of a file stands for the option.
	flagOnly bool

	// defaults are values as a user would write them, by form; "": the zero value.
	defaults [2]string
	// shown is what the help says of a default where its text says too little.
	shown [2]string
	// complete gives what a shell may offer as the value; nil: nothing.
	complete func() ([]string, cobra.ShellCompDirective)
}

// both is a default of both forms.
func both(text string) [2]string { return [2]string{text, text} }

// The groups of the help, in the order of the table.
const (
	groupStart    = "Start"
	groupRestart  = "Restart"
	groupStop     = "Stop and signals"
	groupOutput   = "Output"
	groupWatch    = "Watch"
	groupHold     = "Ports and processes"
	groupHealth   = "Health and metrics"
	groupMessages = "Messages"
)

// table is every option of a run. A default stands here and nowhere else.
var table = []option{
	{
		name: "uid", short: "u", group: groupStart, arg: "NAME",
		help:  "what the app is called by stop, restart, logs and its files",
		set:   func(s *settings, v string) (err error) { s.uid, err = parseUID(v); return },
		shown: both("four characters at random"),
	},
	{
		name: "id", group: groupStart, arg: "NAME",
		help: "a further name for it",
		set:  func(s *settings, v string) error { return setText(&s.id, v) },
	},
	{
		name: "path", short: "p", group: groupStart, arg: "FOLDER",
		help:     "where its log and pid file are, unless they are named",
		set:      func(s *settings, v string) error { return setText(&s.path, v) },
		shown:    both("EVERMORE_ROOT, FOREVER_ROOT, ~/.evermore"),
		complete: folders,
	},
	{
		name: "command", short: "c", group: groupStart, arg: "COMMAND", scriptOnly: true,
		help:  "run SCRIPT by this, with its options: \"node --inspect\"",
		set:   func(s *settings, v string) error { return setWords(&s.command, v) },
		shown: [2]string{script: "node"},
	},
	{
		name: "npm", group: groupStart, arg: "SCRIPT",
		help: "run a script of package.json, without npm in between; SCRIPT is then the package's folder, and behind -- there are its arguments",
		set:  func(s *settings, v string) error { return setText(&s.npm, v) },
	},
	{
		name: "before", group: groupStart, arg: "COMMAND",
		help: "run this to its end first; unless it succeeds, the app is not started",
		set:  func(s *settings, v string) (err error) { s.app.Before, err = parseCommand(v); return },
	},
	{
		name: "source-dir", group: groupStart, arg: "FOLDER", scriptOnly: true,
		help:     "where a relative SCRIPT is found",
		set:      func(s *settings, v string) error { return setText(&s.sourceDir, v) },
		shown:    [2]string{script: "."},
		complete: folders,
	},
	{
		name: "working-dir", group: groupStart, arg: "FOLDER",
		help:     "where the app runs",
		set:      func(s *settings, v string) error { return setText(&s.workingDir, v) },
		shown:    [2]string{container: ".", script: "--source-dir"},
		complete: folders,
	},
	{
		name: "env-file", group: groupStart, arg: "FILE", list: true,
		help:     "variables for the app, NAME=value a line, read before each start; the environment wins",
		set:      func(s *settings, v string) error { s.envFiles = append(s.envFiles, v); return nil },
		complete: files,
	},
	{
		name: "memory-aware", group: groupStart,
		help: "set node's --max-old-space-size, in NODE_OPTIONS, to what fits into the container's limit of memory",
		on:   func(s *settings) *bool { return &s.memoryAware },
	},
	{
		name: "node-report", group: groupStart,
		help: "have node leave a report when an exception or its heap ends it, so that evermore why knows; by NODE_OPTIONS",
		on:   func(s *settings) *bool { return &s.nodeReport },
	},
	{
		name: "user", group: groupStart, arg: "USER[:GROUP]",
		help: "run the app as this user, a name or a number; with its groups, or GROUP alone",
		set:  func(s *settings, v string) error { return setText(&s.user, v) },
	},
	{
		name: "no-new-privs", group: groupStart,
		help: "the app cannot gain privileges by setuid programs such as sudo",
		on:   func(s *settings) *bool { return &s.noNewPrivs },
	},
	{
		name: "umask", group: groupStart, arg: "MODE",
		help: "permissions that new files do not get, octal: 027",
		set:  func(s *settings, v string) (err error) { s.umask, err = parseUmask(v); return },
	},
	{
		name: "pid-file", group: groupStart, arg: "FILE",
		help:     "keep the app's pid in FILE while it runs",
		set:      func(s *settings, v string) error { return setText(&s.pidFile, v) },
		complete: files,
	},

	{
		name: "restart", group: groupRestart, arg: "WHEN",
		help:     "restart always, on-failure (any exit code but 0) or never",
		set:      func(s *settings, v string) (err error) { s.app.Policy.When, err = pid1.ParseWhen(v); return },
		defaults: [2]string{container: "on-failure", script: "always"},
		complete: words("always", "on-failure", "never"),
	},
	{
		name: "max", short: "m", group: groupRestart, arg: "N",
		help:  "run the app N times at the most",
		set:   func(s *settings, v string) (err error) { s.app.Policy.MaxRuns, err = parseRuns(v); return },
		shown: both("no limit"),
	},
	{
		name: "max-restarts", group: groupRestart, arg: "N/TIME",
		help: "give up rather than restart more than N times in TIME; 0: no limit",
		set: func(s *settings, v string) (err error) {
			s.app.Policy.MaxRestarts, err = pid1.ParseRate(v, parseTime)
			return
		},
		defaults: [2]string{container: "5/10m", script: "0"},
	},
	{
		name: "min-uptime", group: groupRestart, arg: "TIME",
		help:     "an app that ends sooner is spinning",
		set:      setTime(func(s *settings) *time.Duration { return &s.app.Policy.MinUptime }),
		defaults: [2]string{container: "10s", script: "1s"},
	},
	{
		name: "spin-sleep-time", group: groupRestart, arg: "TIME",
		help:     "pause before a spinning app is restarted; 0: give up at once",
		set:      setTime(func(s *settings) *time.Duration { return &s.app.Policy.SpinSleepTime }),
		defaults: [2]string{container: "100ms", script: "0"},
	},
	{
		name: "spin-sleep-max", group: groupRestart, arg: "TIME",
		help:     "each pause is twice the last, up to TIME",
		set:      setTime(func(s *settings) *time.Duration { return &s.app.Policy.SpinSleepMax }),
		defaults: [2]string{container: "30s"},
		shown:    [2]string{script: "--spin-sleep-time"},
	},
	{
		name: "max-memory", group: groupRestart, arg: "SIZE",
		help:  "restart an app that uses more: 300M; it is looked at every 5 s",
		set:   func(s *settings, v string) (err error) { s.app.MaxMemory, err = parseSize(v); return },
		shown: both("no limit"),
	},
	{
		name: "max-run-time", group: groupRestart, arg: "TIME",
		help:  "restart an app that has run for so long",
		set:   setTime(func(s *settings) *time.Duration { return &s.app.MaxRunTime }),
		shown: both("no limit"),
	},
	{
		name: "cron-restart", group: groupRestart, arg: "CRON",
		help:  "restart at these times, in local time: \"0 4 * * *\"",
		set:   func(s *settings, v string) (err error) { s.app.Schedule, err = parseCron(v); return },
		shown: both("never"),
	},
	{
		name: "stop-exit-codes", group: groupRestart, arg: "LIST", list: true,
		help: "exit codes that are not followed by a restart: 0,143",
		set:  func(s *settings, v string) error { return s.addStopCodes(v) },
	},
	{
		name: "on-exit", group: groupRestart, arg: "COMMAND",
		help: "run this after each exit, with EVERMORE_EXIT_UID, _CODE, _SIGNAL, _REASON, _UPTIME_MS; for 10 s at most",
		set:  func(s *settings, v string) (err error) { s.app.OnExit, err = parseCommand(v); return },
	},

	{
		name: "kill-signal", group: groupStop, arg: "SIGNAL",
		help:     "sent to end the app",
		set:      func(s *settings, v string) (err error) { s.app.KillSignal, err = parseKillSignal(v); return },
		shown:    both("the stop signal that came, or TERM"),
		complete: signalNames,
	},
	{
		name: "kill-timeout", group: groupStop, arg: "TIME",
		help:     "then SIGKILL after TIME; 0: never",
		set:      setTime(func(s *settings) *time.Duration { return &s.app.KillTimeout }),
		defaults: [2]string{container: "8s", script: "10s"},
	},
	{
		name: "drain-wait", group: groupStop, arg: "TIME",
		help:  "when a stop is asked for: /readyz says 503 at once, the app serves on for TIME, then is told to end",
		set:   setTime(func(s *settings) *time.Duration { return &s.app.DrainWait }),
		shown: both("0"),
	},
	{
		name: "grace", group: groupStop, arg: "TIME",
		help: "after what time somebody else kills: --drain-wait, --kill-timeout and 2s must fit in, else a warning; 0: never",
		set:  setTime(func(s *settings) *time.Duration { return &s.grace }),
		// Kubernetes' terminationGracePeriodSeconds, unless a pod sets it.
		defaults: [2]string{container: "30s"},
	},
	{
		name: "termination-log", group: groupStop, arg: "FILE",
		help:     "write why it ended there, in one line: /dev/termination-log",
		set:      func(s *settings, v string) error { return setText(&s.terminationLog, v) },
		complete: files,
	},
	{
		name: "kill-tree", short: "t", group: groupStop, negated: true,
		help:     "end what the app leaves behind: its process group, its detached descendants",
		on:       func(s *settings) *bool { return &s.app.KillTree },
		defaults: both("true"),
	},
	{
		name: "signal-group", short: "g", group: groupStop,
		help: "send signals to the app's whole process group",
		on:   func(s *settings) *bool { return &s.app.SignalGroup },
	},
	{
		name: "stop-signal", group: groupStop, arg: "LIST",
		help: "signals that mean stop",
		set:  func(s *settings, v string) (err error) { s.app.StopSignals, err = parseStopSignals(v); return },
		// HUP is in it when there is a terminal to hang up: see stopSignals.
		defaults: both("TERM,INT,QUIT"),
		shown:    both("TERM,INT,QUIT; HUP with a terminal"),
		complete: signalNames,
	},
	{
		name: "signal", group: groupStop, arg: "FROM=TO", list: true,
		help: "send TO when FROM arrives; FROM=0: send nothing",
		set:  func(s *settings, v string) error { return s.addRewrites(v) },
	},
	{
		name: "remap-exit", group: groupStop, arg: "A=B", list: true,
		help: "exit with B when the app exited with A: 143=0",
		set: func(s *settings, v string) error {
			codes, err := parseRemap(v)
			if err == nil {
				maps.Copy(s.app.RemapExit, codes)
			}
			return err
		},
	},

	{
		name: "log-file", short: "l", group: groupOutput, arg: "FILE",
		help:     "the app's output, in place of the console, and evermore's messages",
		set:      func(s *settings, v string) error { return setText(&s.logFile, v) },
		complete: files,
	},
	{
		name: "out-file", short: "o", group: groupOutput, arg: "FILE",
		help:     "the app's standard output",
		set:      func(s *settings, v string) error { return setText(&s.outFile, v) },
		complete: files,
	},
	{
		name: "err-file", short: "e", group: groupOutput, arg: "FILE",
		help:     "the app's standard error",
		set:      func(s *settings, v string) error { return setText(&s.errFile, v) },
		complete: files,
	},
	{
		name: "append", short: "a", group: groupOutput, negated: true,
		help:     "add to these files; without it, -l must not exist and -o, -e are emptied",
		on:       func(s *settings) *bool { return &s.appendLogs },
		defaults: [2]string{container: "true"},
	},
	{
		name: "silent", short: "s", group: groupOutput,
		help: "pass the app's output to -o and -e only",
		on:   func(s *settings) *bool { return &s.silent },
	},
	{
		name: "timestamps", group: groupOutput,
		help: "put the time before each line; the app then ends with a killed evermore, as its output is a pipe",
		on:   func(s *settings) *bool { return &s.timestamps },
	},
	{
		name: "log-max-size", group: groupOutput, arg: "SIZE",
		help:  "rotate -l, -o, -e at this size: 10M",
		set:   func(s *settings, v string) (err error) { s.logMaxSize, err = parseSize(v); return },
		shown: both("never"),
	},
	{
		name: "log-max-files", group: groupOutput, arg: "N",
		help:     "keep N rotated files of each; 0: all",
		set:      func(s *settings, v string) (err error) { s.logMaxFiles, err = parseCount(v); return },
		defaults: both("10"),
	},
	{
		name: "log-compress", group: groupOutput,
		help: "compress rotated files by gzip",
		on:   func(s *settings) *bool { return &s.logCompress },
	},

	{
		name: "watch", short: "w", group: groupWatch,
		help: "restart the app when a file changes",
		on:   func(s *settings) *bool { return &s.watch },
	},
	{
		name: "watch-directory", group: groupWatch, arg: "FOLDER", list: true,
		help:     "watch these folders, with all below them",
		set:      func(s *settings, v string) error { s.watchDirs = append(s.watchDirs, v); return nil },
		shown:    both("where the script is, or the app runs"),
		complete: folders,
	},
	{
		name: "watch-ignore", group: groupWatch, arg: "GLOB", list: true,
		help: "files and folders that may change, beside those of .foreverignore",
		set:  func(s *settings, v string) error { return s.addIgnore(v) },
	},
	{
		name: "watch-all", group: groupWatch,
		help: "watch node_modules and names with a dot, too",
		on:   func(s *settings) *bool { return &s.watchAll },
	},
	{
		name: "watch-action", group: groupWatch, arg: "ACTION",
		help: "what a change does: restart, reload, or signal:HUP",
		set: func(s *settings, v string) (err error) {
			s.watchReload, s.watchSignal, err = parseWatchAction(v)
			return
		},
		defaults: both("restart"),
		complete: words("restart", "reload", "signal:HUP", "signal:USR2"),
	},
	{
		name: "watch-poll", group: groupWatch, arg: "TIME",
		help:  "look every TIME, where the kernel tells nothing: bind mounts, network file systems",
		set:   setTime(func(s *settings) *time.Duration { return &s.watchPoll }),
		shown: both("off"),
	},

	{
		name: "hold", group: groupHold, arg: "ADDRESS", list: true,
		help: "keep PORT, HOST:PORT or unix:PATH open while the app is started anew: connections wait; auto: PORT of the environment, or what the app binds",
		set:  func(s *settings, v string) error { return s.addHeld(v) },
	},
	{
		name: "hold-timeout", group: groupHold, arg: "TIME",
		help:     "for how long connections wait when nobody listens, then they are refused until the app does",
		set:      setTime(func(s *settings) *time.Duration { return &s.holdTimeout }),
		defaults: both("5s"),
	},
	{
		name: "instances", short: "i", group: groupHold, arg: "N",
		help:     "run N processes on the same ports; max, or 0: one a processor; implies --hold auto, and makes HUP a reload",
		set:      func(s *settings, v string) (err error) { s.instances, err = parseInstances(v); return },
		shown:    both("1"),
		complete: words("max", "2"),
	},
	{
		name: "instance-var", group: groupHold, arg: "NAME",
		help:     "the variable that tells each of --instances its number, from 0 on",
		set:      func(s *settings, v string) (err error) { s.instanceVar, err = parseVariable(v); return },
		defaults: both("NODE_APP_INSTANCE"),
	},
	{
		name: "reload-mode", group: groupHold, arg: "MODE",
		help:     "how reload replaces a process: overlap, the new one before the old one ends; restart, the old one first",
		set:      func(s *settings, v string) (err error) { s.reloadMode, err = parseReloadMode(v); return },
		defaults: both(reloadOverlap),
		complete: words(reloadOverlap, reloadRestart),
	},
	{
		name: "ready-timeout", group: groupHold, arg: "TIME",
		help:     "for how long a reload waits for a new process to be ready before it is rolled back",
		set:      setTime(func(s *settings) *time.Duration { return &s.readyTimeout }),
		defaults: both("30s"),
	},
	{
		name: "drain-pause", group: groupHold, arg: "TIME",
		help:     "before the end of a process: how long a client may still use a connection that idles",
		set:      setTime(func(s *settings) *time.Duration { return &s.drainPause }),
		defaults: both("500ms"),
	},
	{
		name: "pm2-messages", group: groupHold,
		help: "the app may say process.send('ready'), and hears the message shutdown before its stop signal, as under pm2",
		on:   func(s *settings) *bool { return &s.pm2Messages },
	},

	{
		name: "http", group: groupHealth, arg: "ADDRESS",
		help:     "serve /metrics, /livez, /readyz, /healthz there: 9797, 127.0.0.1:9797 or off",
		set:      func(s *settings, v string) (err error) { s.http, err = parseHTTP(v); return },
		defaults: [2]string{container: ":9797", script: "off"},
		complete: words("off", "127.0.0.1:9797", ":9797"),
	},
	{
		name: "ready", group: groupHealth, arg: "HOW",
		help:     "the app is ready when up for a second (uptime), when it listens (listening), when it says so by sd_notify(3) (notify) or process.send('ready') (message), or while a URL answers",
		set:      func(s *settings, v string) (err error) { s.app.Ready, err = pid1.ParseReadiness(v); return },
		shown:    both("listening where ports are held, else uptime"),
		complete: words("uptime", "listening", "message", "notify", "http://127.0.0.1:"),
	},
	{
		name: "hang-timeout", group: groupHealth, arg: "TIME",
		help:  "start the app anew when node's event loop has not answered for TIME",
		set:   setTime(func(s *settings) *time.Duration { return &s.app.HangTimeout }),
		shown: both("off"),
	},
	{
		name: "hang-stack", group: groupHealth,
		help: "write the JavaScript stack of an app that hangs to the log first; it opens node's inspector on 127.0.0.1",
		on:   func(s *settings) *bool { return &s.app.HangStack },
	},
	{
		name: "node-metrics", group: groupHealth,
		help: "show node's heap, event loop and garbage collections among the metrics, as prom-client names them",
		on:   func(s *settings) *bool { return &s.nodeMetrics },
	},
	{
		name: "live-timeout", group: groupHealth, arg: "TIME",
		help:     "/livez fails after TIME neither ready nor pausing before a restart; 0: never",
		set:      setTime(func(s *settings) *time.Duration { return &s.app.LiveTimeout }),
		defaults: both("10m"),
	},
	{
		name: "watchdog", group: groupHealth, arg: "TIME",
		help:  "restart the app when it is silent for TIME: no WATCHDOG=1 by sd_notify(3)",
		set:   setTime(func(s *settings) *time.Duration { return &s.app.Watchdog }),
		shown: both("off"),
	},

	{
		name: "log-format", group: groupMessages, arg: "FORMAT",
		help:     "evermore's messages: console or json",
		set:      func(s *settings, v string) error { return setFormat(&s.logFormat, v) },
		shown:    [2]string{container: "json, console on a terminal", script: "console"},
		complete: words("console", "json"),
	},
	{
		name: "verbose", short: "v", group: groupMessages,
		help: "tell more",
		on:   func(s *settings) *bool { return &s.verbose },
	},
	{
		name: "debug", short: "d", group: groupMessages,
		help: "tell everything",
		on:   func(s *settings) *bool { return &s.debug },
	},
	{
		name: "colors", group: groupMessages, negated: true,
		help:  "colour evermore's messages; --plain is --no-colors",
		on:    func(s *settings) *bool { return &s.colors },
		shown: both("on a terminal, unless NO_COLOR is set"),
	},
	{
		name: "help", short: "h", group: groupMessages, flagOnly: true,
		help: "show this",
		on:   func(s *settings) *bool { return &s.help },
	},
	{
		name: "version", group: groupMessages, flagOnly: true,
		help: "show the version",
		on:   func(s *settings) *bool { return &s.version },
	},
}

// spellings are further names of options.
var spellings = map[string]string{"plain": "no-colors", "color": "colors", "no-color": "no-colors", "follow": "fifo", "name": "uid"}

// camel is forever's writing of a name: minUptime.
func camel(name string) string {
	head, rest, _ := strings.Cut(name, "-")
	var b strings.Builder
	b.WriteString(head)
	for part := range strings.SplitSeq(rest, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

// kebab is the canonical writing of a name: min-uptime.
func kebab(name string) string {
	if !strings.ContainsFunc(name, unicode.IsUpper) {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			if i > 0 && ('a' <= name[i-1] && name[i-1] <= 'z' || '0' <= name[i-1] && name[i-1] <= '9') {
				b.WriteByte('-')
			}
			c += 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}

const envPrefix = "EVERMORE_"

// env is the variable that stands for the option; "": none does.
func (o *option) env() string {
	if o.flagOnly {
		return ""
	}
	name := []byte(envPrefix + o.name)
	for i, c := range name {
		switch {
		case c == '-':
			name[i] = '_'
		case 'a' <= c && c <= 'z':
			name[i] = c - 'a' + 'A'
		}
	}
	return string(name)
}

// label is the option's name in a message: "-m/--max".
func (o *option) label() string {
	if o.short != "" {
		return "-" + o.short + "/--" + o.name
	}
	return "--" + o.name
}

// read sets the option from a text.
func (o *option) read(s *settings, text string) error {
	if o.on == nil {
		return o.set(s, text)
	}
	b, err := parseBool(text)
	if err == nil {
		*o.on(s) = b
	}
	return err
}

// defaultText is what a person is told of the default; "": nothing.
func (o *option) defaultText(f form) string {
	switch {
	case o.shown[f] != "":
		return o.shown[f]
	case o.on != nil && o.defaults[f] == "true":
		return "on"
	case o.on != nil && o.defaults[1-f] == "true":
		return "off"
	}
	return o.defaults[f]
}

func words(list ...string) func() ([]string, cobra.ShellCompDirective) {
	return func() ([]string, cobra.ShellCompDirective) { return list, cobra.ShellCompDirectiveNoFileComp }
}

func files() ([]string, cobra.ShellCompDirective) { return nil, cobra.ShellCompDirectiveDefault }

func folders() ([]string, cobra.ShellCompDirective) { return nil, cobra.ShellCompDirectiveFilterDirs }

func signalNames() ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, s := range signals.All() {
		if s < 32 {
			names = append(names, strings.TrimPrefix(signals.Name(s), "SIG"))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
