package appfile

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// PM2Key tells what becomes of a key of pm2's ecosystem files.
type PM2Key struct {
	Key string
	// Option is what it sets here: an option, an argument or a variable. Empty:
	// it sets nothing.
	Option string
	// Note is what differs, or why nothing is set.
	Note string
	// Refused says that the key is an error, unless its value changes nothing.
	Refused bool
}

// PM2Keys are all keys of pm2 5 and 6 (lib/API/schema.json), as far as they may
// stand in a file.
func PM2Keys() []PM2Key {
	keys := make([]PM2Key, len(pm2Keys))
	for i, k := range pm2Keys {
		keys[i] = PM2Key{k.key, k.option, k.note, k.refused}
	}
	return keys
}

// pm2Row is a row of the table of pm2's keys.
type pm2Row struct {
	key     string
	aliases []string // besides camelCase, which pm2 takes for each key
	option  string
	note    string
	// read takes the value; nil: nothing becomes of it, or it is refused.
	read    func(*pm2App, member) error
	refused bool
	// fine is the value of a refused key that changes nothing; empty: any that
	// JavaScript takes for false.
	fine string
}

// pm2Keys is everything that is known of pm2's keys.
var pm2Keys = []pm2Row{
	{
		key: "script", aliases: []string{"exec", "cmd", "command"}, option: "SCRIPT",
		note: "in cwd; a command of the PATH, and a whole command line, is run by itself",
		read: text(func(a *pm2App) *string { return &a.script }),
	},
	{
		key: "args", option: "SCRIPT-OPTIONS",
		read: words(func(a *pm2App) *[]string { return &a.args }),
	},
	{
		key: "name", option: "uid", note: "without it the script's name without its extension",
		read: text(func(a *pm2App) *string { return &a.name }),
	},
	{
		key: "cwd", option: "working-dir", note: "relative files are there, too",
		read: text(func(a *pm2App) *string { return &a.cwd }),
	},
	{
		key: "interpreter", aliases: []string{"exec_interpreter"}, option: "command",
		note: `"none" runs the script itself; without it, the extension says what runs it, as in pm2`,
		read: text(func(a *pm2App) *string { return &a.interpreter }),
	},
	{
		key: "node_args", aliases: []string{"interpreter_args"}, option: "command",
		note: "follow the interpreter, which is node when none is given",
		read: words(func(a *pm2App) *[]string { return &a.interpreterArgs }),
	},
	{key: "env", option: "environment", read: func(a *pm2App, m member) (err error) {
		a.env, err = a.readEnv(m.value, m.key, true)
		return err
	}},
	{key: "env_NAME", option: "environment", note: "with --env NAME, over env; a NAME that no app has is an error"},
	{key: "port", option: "environment", note: "PORT", read: text(func(a *pm2App) *string { return &a.port })},
	{
		key: "instances", option: "instances",
		note: `of a cluster; with fork one app each, called name-0, name-1 and so on; "max" is the number of CPUs, as is 0`,
		read: text(func(a *pm2App) *string { return &a.instances }),
	},
	{
		key: "exec_mode", note: "cluster, and without it more than one instance of a node script: processes of one app, on the same ports; else fork",
		read: text(func(a *pm2App) *string { return &a.mode }),
	},
	{
		key: "instance_var", option: "instance-var", note: "what NODE_APP_INSTANCE, the instance's number, is called",
		read: text(func(a *pm2App) *string { return &a.instanceVar }),
	},
	{
		key: "increment_var", option: "environment", note: "a variable to which each instance adds its number; not in a cluster, whose instances share their environment",
		read: text(func(a *pm2App) *string { return &a.incrementVar }),
	},
	{
		key: "uid", aliases: []string{"user"}, option: "user",
		read: text(func(a *pm2App) *string { return &a.user }),
	},
	{key: "gid", option: "user", read: text(func(a *pm2App) *string { return &a.group })},

	{
		key: "autorestart", option: "restart", note: "false is never",
		read: func(a *pm2App, m member) error {
			on, err := a.readSwitch(m.value, m.key)
			if err != nil || on == "true" {
				return err
			}
			return a.add(&a.app, "restart", m, "never")
		},
	},
	{
		key: "min_uptime", option: "min-uptime", note: "1s without it",
		read: func(a *pm2App, m member) (err error) {
			a.minUptime, err = a.matching(m, pm2Time, "milliseconds of 100 or more, or a time such as 10s, 5m, 1h")
			return err
		},
	},
	{
		key: "max_restarts", option: "max-restarts",
		note: "N is N/(N × min_uptime): pm2 counts in that time, but only after the start and only runs shorter than min_uptime; 16 without it, 0 is no limit",
		read: func(a *pm2App, m member) (err error) {
			a.maxRestarts, err = a.matching(m, pm2Number, "a whole number")
			return err
		},
	},
	{
		key: "restart_delay", option: "spin-sleep-time",
		note: "pm2 waits before every restart, this only before that of an app which ended sooner than min_uptime; 1 ms without it, since pm2 restarts at once",
		read: func(a *pm2App, m member) (err error) {
			a.restartDelay, err = a.matching(m, pm2Number, "milliseconds")
			return err
		},
	},
	{
		key: "exp_backoff_restart_delay", option: "spin-sleep-time",
		note: "with spin-sleep-max 15s; each pause is twice the last, pm2's 1.5 times; it wins over restart_delay",
		read: func(a *pm2App, m member) (err error) {
			a.backoff, err = a.matching(m, pm2Number, "milliseconds")
			return err
		},
	},
	{
		key: "max_memory_restart", option: "max-memory",
		read: func(a *pm2App, m member) error {
			size, err := a.matching(m, pm2Size, "bytes, or a size such as 300M, 1G")
			if err != nil || size == "0" {
				return err
			}
			return a.add(&a.app, "max-memory", m, size)
		},
	},
	{
		key: "cron_restart", aliases: []string{"cron"}, option: "cron-restart", note: "0 is none",
		read: func(a *pm2App, m member) error {
			pattern, err := a.readText(m.value, m.key)
			if err != nil || pattern == "0" || pattern == "" {
				return err
			}
			return a.add(&a.app, "cron-restart", m, pattern)
		},
	},
	{
		key: "stop_exit_codes", option: "stop-exit-codes",
		read: func(a *pm2App, m member) error {
			codes, err := a.readList(m.value, m.key)
			if err != nil || len(codes) == 0 {
				return err
			}
			if a.keys.Options["stop-exit-codes"] != List {
				codes = []string{strings.Join(codes, ",")}
			}
			return a.add(&a.app, "stop-exit-codes", m, codes...)
		},
	},
	{
		key: "kill_timeout", option: "kill-timeout", note: "1600 ms without it; the kill-signal is SIGINT, as pm2's",
		read: toMilliseconds("kill-timeout"),
	},
	{key: "treekill", option: "kill-tree", read: toSwitch("kill-tree")},

	{
		key: "watch", option: "watch", note: "folders become watch-directory; without them it is cwd",
		read: func(a *pm2App, m member) error {
			if isBoolean(m.value) {
				return toSwitch("watch")(a, m)
			}
			return a.setWatched(&a.app, m, func(folder string) string { return folder })
		},
	},
	{
		key: "ignore_watch", option: "watch-ignore",
		read: func(a *pm2App, m member) error {
			globs, err := a.readList(m.value, m.key)
			if err != nil {
				return err
			}
			return a.add(&a.app, "watch-ignore", m, globs...)
		},
	},
	{key: "watch_delay", refused: true, note: "changes are gathered for 100 ms: leave it out"},
	{
		key: "watch_options", refused: true,
		note: "they are chokidar's: use watch, ignore_watch and, where inotify is blind, --watch-poll",
	},

	{
		key: "out_file", aliases: []string{"out", "output", "out_log"}, option: "out-file",
		note: "in cwd; always appended to; with fork -N is added to its name for each of several instances, unless merge_logs says otherwise",
		read: toFile("out-file"),
	},
	{
		key: "error_file", aliases: []string{"error", "err", "err_file", "err_log"}, option: "err-file",
		note: "as out_file", read: toFile("err-file"),
	},
	{
		key: "log_file", aliases: []string{"log"}, option: "log-file", note: "as out_file; true is the usual place, false means nothing",
		read: func(a *pm2App, m member) error {
			if isBoolean(m.value) {
				return nil
			}
			return toFile("log-file")(a, m)
		},
	},
	{
		key: "pid_file", aliases: []string{"pid"}, option: "pid-file", note: "in cwd; with fork -N is added to its name for each of several instances",
		read: toFile("pid-file"),
	},
	{
		key: "merge_logs", aliases: []string{"combine_logs"}, note: "instances share their logs, as those of a cluster do in any case",
		read: toBool(func(a *pm2App) *bool { return &a.mergeLogs }),
	},
	{key: "disable_logs", option: "silent", read: toSwitch("silent")},
	{
		key: "time", option: "timestamps", note: "evermore's format",
		read: func(a *pm2App, m member) error {
			on, err := a.readSwitch(m.value, m.key)
			a.timestamps = a.timestamps || on == "true"
			return err
		},
	},
	{
		key: "log_date_format", option: "timestamps", note: "evermore's format",
		read: func(a *pm2App, m member) error {
			format, err := a.readText(m.value, m.key)
			a.timestamps = a.timestamps || format != ""
			return err
		},
	},

	{
		key: "wait_ready", option: "ready", note: "message, with --pm2-messages",
		read: toBool(func(a *pm2App) *bool { return &a.waitReady }),
	},
	{
		key: "listen_timeout", option: "ready-timeout",
		note: "30s without it; what is not ready by then is rolled back, where pm2 takes it for ready",
		read: toMilliseconds("ready-timeout"),
	},
	{
		key: "shutdown_with_message", option: "pm2-messages", note: "the kill-signal follows where the message does not end the app",
		read: toBool(func(a *pm2App) *bool { return &a.shutdownMessage }),
	},
	{key: "filter_env", refused: true, note: "an app gets the whole environment: start with env -i, or env -u NAME"},
	{key: "log_type", refused: true, note: "lines are written as they are: let the app write JSON"},
	{key: "autostart", refused: true, fine: "true", note: "all apps of a file are started: leave the app out"},
	{key: "name_prefix", refused: true, note: "write it into name"},
	{key: "append_env_to_name", refused: true, note: "write it into name"},
	{key: "execute_command", refused: true, note: `use exec_mode: "fork"`},
	{key: "trace", refused: true, note: "tracing is not evermore's: use OpenTelemetry in the app"},
	{key: "deep_monitoring", refused: true, note: "it is pm2.io's: use --http and Prometheus"},
	{key: "event_loop_inspector", refused: true, note: "it is pm2.io's: use node's own perf_hooks"},
	{key: "v8", refused: true, note: "it is pm2.io's: use node's own v8 module"},
	{key: "install_url", refused: true, note: "nothing is installed: install the app first"},
	{key: "post_update", refused: true, note: "nothing is updated: run the commands where the app is deployed"},

	{key: "force", note: "an app that runs already is replaced with --replace"},
	{key: "namespace", note: "a label of pm2's list"},
	{key: "source_map_support", note: `stack traces only: node_args: "--enable-source-maps" has them mapped`},
	{key: "disable_source_map_support", note: "nothing is mapped unless node is told to"},
	{key: "vizion", note: "a label of pm2's list: the app's revision"},
	{key: "pmx", note: "pm2.io's"},
	{key: "automation", note: "pm2.io's"},
	{key: "disable_trace", note: "nothing is traced"},
	{key: "io", note: "pm2.io's"},
	{key: "username", note: "a label of pm2's list"},
	{key: "windowsHide", note: "Windows only"},
	{key: "kill_retry_time", note: "how often pm2 looks whether an app has ended; evermore is told at once"},
	{key: "write", note: "a flag of pm2's command line"},
}

// pm2Key finds the row of a key; nil: there is none.
func pm2Key(key string) *pm2Row {
	for i := range pm2Keys {
		k := &pm2Keys[i]
		for _, name := range append([]string{k.key}, k.aliases...) {
			if key == name || key == camel(name, "_") {
				return k
			}
		}
	}
	return nil
}

// The values that pm2 takes.
var (
	pm2Time   = regexp.MustCompile(`^[0-9]+[hms]?$`)
	pm2Size   = regexp.MustCompile(`^[0-9]+[GMK]?$`)
	pm2Number = regexp.MustCompile(`^[0-9]{1,10}$`)
)

// text keeps the text of a key.
func text(field func(*pm2App) *string) func(*pm2App, member) error {
	return func(a *pm2App, m member) (err error) {
		*field(a), err = a.readText(m.value, m.key)
		return err
	}
}

// words keeps the words of a key.
func words(field func(*pm2App) *[]string) func(*pm2App, member) error {
	return func(a *pm2App, m member) (err error) {
		*field(a), err = a.readWords(m.value, m.key)
		return err
	}
}

// toBool keeps true or false.
func toBool(field func(*pm2App) *bool) func(*pm2App, member) error {
	return func(a *pm2App, m member) error {
		on, err := a.readSwitch(m.value, m.key)
		*field(a) = on == "true"
		return err
	}
}

// toMilliseconds sets a time.
func toMilliseconds(option string) func(*pm2App, member) error {
	return func(a *pm2App, m member) error {
		ms, err := a.matching(m, pm2Number, "milliseconds")
		if err != nil {
			return err
		}
		return a.add(&a.app, option, m, ms)
	}
}

// toSwitch sets a switch.
func toSwitch(option string) func(*pm2App, member) error {
	return func(a *pm2App, m member) error {
		on, err := a.readSwitch(m.value, m.key)
		if err != nil {
			return err
		}
		return a.add(&a.app, option, m, on)
	}
}

// toFile sets a file that is written.
func toFile(option string) func(*pm2App, member) error {
	return func(a *pm2App, m member) error {
		path, err := a.readText(m.value, m.key)
		if err != nil || path == "" {
			return err
		}
		if path == "NULL" {
			path = os.DevNull
		}
		return a.add(&a.app, option, m, path)
	}
}

// matching reads a text of a form; what says which.
func (a *pm2App) matching(m member, form *regexp.Regexp, what string) (string, error) {
	text, err := a.readText(m.value, m.key)
	if err == nil && !form.MatchString(text) {
		err = a.errorAt(m.value, "%q takes %s, not %q", m.key, what, text)
	}
	return text, err
}

// off tells whether a value switches a key off: it is false to JavaScript, or
// holds nothing else.
func off(v hujson.Value) bool {
	switch v := v.Value.(type) {
	case hujson.Literal:
		return slices.Contains([]string{"false", "null", "0", `""`, `"false"`}, string(v))
	case *hujson.Object:
		return !slices.ContainsFunc(v.Members, func(m hujson.ObjectMember) bool { return !off(m.Value) })
	case *hujson.Array:
		return len(v.Elements) == 0
	}
	return false
}
