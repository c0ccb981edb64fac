package appfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var keys = Keys{
	Options: map[string]Kind{
		"append": Switch, "pm2-messages": Switch, "silent": Switch, "watch": Switch, "kill-tree": Switch, "timestamps": Switch,
		"command": Value, "cron-restart": Value, "env-file": Value, "err-file": Value, "id": Value,
		"instance-var": Value, "instances": Value, "ready": Value, "ready-timeout": Value,
		"kill-signal": Value, "kill-timeout": Value, "log-file": Value, "max": Value, "max-memory": Value,
		"max-restarts": Value, "min-uptime": Value, "out-file": Value, "path": Value, "pid-file": Value,
		"restart": Value, "source-dir": Value, "spin-sleep-max": Value, "spin-sleep-time": Value,
		"uid": Value, "user": Value, "working-dir": Value,
		"stop-exit-codes": List, "watch-directory": List, "watch-ignore": List,
	},
	Split: split,
}

// split knows spaces and both quotes.
func split(s string) (words []string, err error) {
	var word strings.Builder
	in, quote := false, rune(0)
	for _, c := range s + " " {
		switch {
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, in = c, true
		case quote == 0 && c == ' ':
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	return words, nil
}

// write makes a file in a new folder, and in it those named by others.
func write(t *testing.T, name, text string, others ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, other := range append(others, name) {
		content := ""
		if other == name {
			content = text
		}
		path := filepath.Join(dir, other)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, name)
}

// read reads a file that is right.
func read(t *testing.T, path, pm2env string) []App {
	t.Helper()
	apps, err := Read(t.Context(), path, keys, pm2env)
	if err != nil {
		t.Fatal(err)
	}
	return apps
}

// options are an app's as "name=value value".
func options(a App) []string {
	var list []string
	for _, o := range a.Options {
		list = append(list, o.Name+"="+strings.Join(o.Values, " "))
	}
	return list
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestIs(t *testing.T) {
	for path, want := range map[string]bool{
		"app.json": true, "/srv/app.jsonc": true, "ecosystem.config.js": true, "a/web.config.cjs": true, "x.config.mjs": true,
		"app.js": false, "config.js": false, "json": false, "app.json.js": false, "": false, "ecosystem.config.ts": false,
	} {
		if got := Is(path); got != want {
			t.Errorf("Is(%q) = %v", path, got)
		}
	}
}

func TestIsEcosystem(t *testing.T) {
	for path, want := range map[string]bool{
		"ecosystem.json": true, "a/ecosystem.config.js": true, "web.config.cjs": true, "app.json": false, "ecosystem.js": false, "ecosystem": false,
	} {
		if got := IsEcosystem(path); got != want {
			t.Errorf("IsEcosystem(%q) = %v", path, got)
		}
	}
}

func TestForever(t *testing.T) {
	apps := read(t, "testdata/app.json", "")
	if len(apps) != 1 {
		t.Fatalf("%d apps", len(apps))
	}
	a := apps[0]
	src := abs(t, "testdata/src")
	equal(t, "name", a.Name, "web")
	equal(t, "script", a.Script, "server.js") // in sourceDir
	equal(t, "args", a.Args, []string{"--port", "8080"})
	equal(t, "env", a.Env, []string{"DEBUG=false", "NODE_ENV=production", "WORKERS=4"})
	equal(t, "options", options(a), []string{
		"uid=web", "source-dir=" + src, "min-uptime=2000", "spin-sleep-time=1s", "append=true", "kill-tree=false",
		"watch=true", "watch-directory=" + src + " /etc/web", "watch-ignore=*.log tmp/**", "log-file=web.log",
	})
	equal(t, "min-uptime", a.Options[2], Option{Name: "min-uptime", Values: []string{"2000"}, Key: "minUptime", Line: 8})
	if a.Direct {
		t.Error("the script is run by itself")
	}
}

func TestForeverValues(t *testing.T) {
	for _, c := range []struct{ members, want string }{
		{`"max": 7`, "max=7"},
		{`"max": "7"`, "max=7"},
		{`"max": 1e21`, "max=1000000000000000000000"},
		{`"max": 12345678901234567890`, "max=12345678901234567890"},
		{`"max": 1.5E-1`, "max=0.15"},
		{`"uid": 42`, "uid=42"},
		{`"silent": "true"`, "silent=true"},
		{`"watch": false`, "watch=false"},
		{`"watch": []`, "watch=true"},
		{`"watchIgnore": "*.log"`, "watch-ignore=*.log"},
		{`"watchIgnore": []`, ""},
		{`"kill-signal": "SIGTERM"`, "kill-signal=SIGTERM"},
		{`"outFile": "o.log"`, "out-file=o.log"},
		{`"id": ""`, "id="},
	} {
		a := read(t, write(t, "app.json", `{"script": "/x.js", `+c.members+`}`), "")[0]
		if got := strings.Join(options(a), ";"); got != c.want {
			t.Errorf("%s gives %q, want %q", c.members, got, c.want)
		}
	}
}

func TestArgs(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{``, nil},
		{`, "args": []`, []string{}},
		{`, "args": ""`, []string{}},
		{`, "args": "a 'b c'"`, []string{"a", "b c"}},
		{`, "args": 5`, []string{"5"}},
	} {
		a := read(t, write(t, "app.json", `{"script": "/x.js"`+c.args+`}`), "")[0]
		equal(t, c.args, a.Args, c.want)
	}
}

// What is relative is in the working directory, and if not, next to the file.
func TestRelative(t *testing.T) {
	text := `{"script": "app.js", "workingDir": "data", "envFile": "none.env", "outFile": "out.log"}`
	file := write(t, "app.json", text, "app.js", "data/x")
	dir := filepath.Dir(file)
	here := filepath.Dir(write(t, "x", ""))
	t.Chdir(here)

	a := read(t, file, "")[0]
	equal(t, "script", a.Script, filepath.Join(dir, "app.js"))
	equal(t, "options", options(a), []string{
		"working-dir=" + filepath.Join(dir, "data"),
		"env-file=" + filepath.Join(here, "none.env"), // in neither
		"out-file=out.log",
	})

	if err := os.WriteFile("app.js", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	equal(t, "script", read(t, file, "")[0].Script, "app.js")

	k := keys
	k.SourceDir = "elsewhere"
	apps, err := Read(t.Context(), file, k, "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "script in --source-dir", apps[0].Script, "app.js")
}

// A folder that is gone has no name, but absolute paths still work.
func TestWithoutWorkingDirectory(t *testing.T) {
	file := write(t, "app.json", `{"script": "app.js"}`, "app.js")
	gone := t.TempDir()
	t.Chdir(gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	equal(t, "script", read(t, file, "")[0].Script, filepath.Join(filepath.Dir(file), "app.js"))
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("[", 1_000_000)
	for _, c := range []struct{ text, want string }{
		{`{"script": "a.js",`, `FILE:1:19: cannot read it as JSON: parsing value: unexpected EOF`},
		{"{\n  'script': 1}", `FILE:2:3: cannot read it as JSON: invalid character '\'' at start of value`},
		{"{\"script\": \"a\nb\"}", `FILE:1:12: cannot read it as JSON: invalid literal: "a b"`},
		{`[]`, `FILE:1:1: there is no app in it`},
		{`{"apps": []}`, `FILE:1:1: there is no app in it`},
		{`5`, `FILE:1:1: an app is an object, and several are an array of objects, not a number`},
		{`[{"script": "a.js"}, true]`, `FILE:1:22: an app takes an object, not true`},
		{"[{\"script\": \"a.js\"},\n {\"uid\": \"j3\"}]", `FILE:2:2: app 2: "script" option required in JSON configuration files`},
		{`{"script": ""}`, `FILE:1:1: app 1: "script" option required in JSON configuration files`},
		{"{\"script\": \"a.js\",\n \"minUptme\": 1}", `FILE:2:2: unknown key "minUptme": did you mean "minUptime"?`},
		{`{"script": "a.js", "frobnicate": 1}`, `FILE:1:20: unknown key "frobnicate"`},
		{`{"script": "a.js", "exec_mode": "cluster"}`, `FILE:1:20: unknown key "exec_mode": pm2's keys go into a list of "apps"`},
		{`{"script": "a.js", "script": "b.js"}`, `FILE:1:20: an app has "script" twice`},
		{`{"script": "a.js", "outFile": "x", "out-file": "y"}`, `FILE:1:36: "out-file" sets what "outFile" has set already: use one of them`},
		{`{"script": "a.js", "watch": ["x"], "watchDirectory": "y"}`, `FILE:1:36: "watchDirectory" sets what "watch" has set already: use one of them`},
		{`{"script": "a.js", "max": [1]}`, `FILE:1:27: "max" takes a string or a number, not an array`},
		{`{"script": "a.js", "max": true}`, `FILE:1:27: "max" takes a string or a number, not true`},
		{`{"script": "a.js", "max": 1e999}`, `FILE:1:27: "max" cannot be as large as 1e999`},
		{`{"script": "a.js", "append": "yes"}`, `FILE:1:30: "append" takes true or false, not "yes"`},
		{`{"script": "a.js", "append": 1}`, `FILE:1:30: "append" takes true or false, not a number`},
		{`{"script": "a.js", "watchIgnore": [null]}`, `FILE:1:36: "watchIgnore" takes a string or a number, not null`},
		{`{"script": "a.js", "args": {}}`, `FILE:1:28: "args" takes a string or a number, not an object`},
		{`{"script": "a.js", "args": "it's"}`, `FILE:1:28: "args": a quote is not closed`},
		{`{"script": "a\u0000.js"}`, `FILE:1:12: "script" contains a NUL, which no program can be given`},
		{`{"script": "a.js", "env": {"A": null}}`, `FILE:1:33: the variable "A" cannot be null: leave it out, or give ""`},
		{`{"script": "a.js", "env": {"A": {}}}`, `FILE:1:33: the variable "A" takes a string, a number or a boolean, not an object`},
		{`{"script": "a.js", "env": {"A=B": 1}}`, `FILE:1:28: "A=B" cannot be the name of a variable`},
		{`{"script": "a.js", "env": []}`, `FILE:1:27: "env" takes an object, not an array`},
		{`[{"script": "a.js", "uid": "x"}, {"script": "b.js", "uid": "x"}]`, `FILE: two apps are called "x": give each a name of its own`},
		{deep, `cannot take FILE as a description of apps: it has more than 10000 brackets`},
		{strings.Repeat(" ", maxSize+1), `cannot take FILE as a description of apps: it is larger than 1 MiB`},
	} {
		file := write(t, "app.json", c.text)
		apps, err := Read(t.Context(), file, keys, "")
		if err == nil {
			t.Errorf("%.60s gives %v, want an error", c.text, apps)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), file, "FILE"); got != c.want {
			t.Errorf("%.60s:\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.json"): "cannot read PATH: no such file or directory",
		dir:                             "cannot read PATH: it is a folder: name a file",
		"/dev/null":                     "cannot read PATH: it is no regular file",
	} {
		_, err := Read(t.Context(), path, keys, "")
		if err == nil || strings.ReplaceAll(err.Error(), path, "PATH") != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func TestByteOrderMark(t *testing.T) {
	a := read(t, write(t, "app.json", "\xef\xbb\xbf{\"script\": \"/x.js\"}"), "")[0]
	equal(t, "script", a.Script, "/x.js")
}

func TestQuote(t *testing.T) {
	for _, words := range [][]string{{"node"}, {"node", "--title=my app"}, {"/a b/node", ""}, {`say "x"`}} {
		got, err := split(quote(words))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, quote(words), got, words)
	}
	// The quoting of POSIX shells, which the test's own split does not know.
	equal(t, "quote", quote([]string{"it's"}), `'it'\''s'`)
}

// needNode skips, or fails where everything must be there.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is not installed")
		}
		t.Skip("node is not installed")
	}
}

func TestEcosystem(t *testing.T) {
	needNode(t)
	dir := abs(t, "testdata/pm2")
	apps := read(t, "testdata/pm2/ecosystem.config.js", "production")
	if len(apps) != 3 {
		t.Fatalf("%d apps: %v", len(apps), apps)
	}
	for i := range 2 {
		a := apps[i]
		equal(t, "name", a.Name, fmt.Sprintf("api-%d", i))
		equal(t, "script", a.Script, filepath.Join(dir, "api.js"))
		equal(t, "args", a.Args, []string{"--port", "80 80"})
		equal(t, "env", a.Env, []string{
			`LIMITS={"rate":5}`, fmt.Sprintf("NODE_APP_INSTANCE=%d", i), "NODE_ENV=production", fmt.Sprintf("PORT=%d", 4000+i),
		})
		equal(t, "options", options(a), []string{
			fmt.Sprintf("out-file=%s/logs/out-%d.log", dir, i), "err-file=/dev/null", fmt.Sprintf("pid-file=%s/run/api-%d.pid", dir, i),
			"max-memory=300M", "cron-restart=0 3 * * *", "stop-exit-codes=0 3", "kill-timeout=5000",
			"watch=true", "watch-directory=" + dir + "/lib", "watch-ignore=node_modules",
			fmt.Sprintf("uid=api-%d", i), "working-dir=" + dir, "command=node --max-old-space-size=300 '--title=my api'", "user=www-data:33",
			"min-uptime=10s", "max-restarts=5/50s", "spin-sleep-time=100", "spin-sleep-max=15s", "kill-signal=SIGINT",
			"timestamps=true", "append=true", "id=api",
		})
	}
	job := apps[2]
	equal(t, "name", job.Name, "job")
	equal(t, "options", options(job), []string{
		"restart=never", "uid=job", "working-dir=" + dir, "command=bash", "min-uptime=1s", "max-restarts=16/16s",
		"spin-sleep-time=3000", "kill-signal=SIGINT", "kill-timeout=1600", "append=true",
	})
	equal(t, "env without --env", read(t, "testdata/pm2/ecosystem.config.js", "")[0].Env, []string{
		`LIMITS={"rate":5}`, "NODE_APP_INSTANCE=0", "PORT=3000",
	})
}

func TestModules(t *testing.T) {
	needNode(t)
	for file, name := range map[string]string{"named.config.mjs": "esm", "default.config.mjs": "esm", "list.config.cjs": "list"} {
		apps := read(t, filepath.Join("testdata/pm2", file), "")
		if len(apps) != 1 || apps[0].Name != name || apps[0].Script != abs(t, "testdata/pm2/api.js") {
			t.Errorf("%s: %+v", file, apps)
		}
	}
}

func TestProgramErrors(t *testing.T) {
	needNode(t)
	for _, c := range []struct{ name, text, want string }{
		{"a.config.js", "module.exports = {\n  apps: [{\n};", `FILE:3: Unexpected token ';'`},
		{"a.config.js", "\nmodule.exports = { apps: nope };", `FILE:2: nope is not defined`},
		{"a.config.js", "throw 'a\\nstring'", `cannot evaluate FILE: a string`},
		{"a.config.js", "process.exit(3)", `cannot evaluate FILE: node ended without a result (exit status 3)`},
		{"a.config.mjs", "setTimeout(() => { throw new Error('late') }); await new Promise(() => {})", `cannot evaluate FILE: node ended without a result (exit status 1): Error: late`},
		{"a.config.js", "module.exports = undefined", `FILE exports nothing: it needs module.exports = { apps: [...] }`},
		{"a.config.js", "module.exports = () => ({})", `FILE exports nothing: it needs module.exports = { apps: [...] }`},
		{"a.config.js", "module.exports = 'x'.repeat(3 << 20)", `cannot evaluate FILE: it makes more than 1 MiB of JSON`},
		{"a.config.js", "module.exports = { apps: [{script: 'a'}, {name: 'b'}] }", `FILE: app 2: "script" option required in JSON configuration files`},
		{"a.config.js", "module.exports = { app: [{script: 'a'}] }", `FILE: app 1: unknown key "app": did you mean "apps"?`},
		{"a.config.js", "module.exports = { apps: [{script: 'a', max_memory: 1}] }", `FILE: app 1: unknown key "max_memory": did you mean "max_memory_restart"?`},
		{"a.config.mjs", "import './none.mjs'; export default {}", `cannot evaluate FILE: Cannot find module `},
	} {
		file := write(t, c.name, c.text)
		apps, err := Read(t.Context(), file, keys, "")
		if err == nil {
			t.Errorf("%s gives %v, want an error", c.text, apps)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), file, "FILE"); got != c.want && (!strings.HasSuffix(c.want, " ") || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s:\n got %s\nwant %s", c.text, got, c.want)
		}
	}
	_, err := Read(t.Context(), "testdata/esm/ecosystem.config.js", keys, "")
	if err == nil || !strings.HasPrefix(err.Error(), "testdata/esm/ecosystem.config.js:1: module is not defined") {
		t.Errorf("CommonJS in an ES module: %v", err)
	}
}

// Neither an endless file nor what it started holds the reader up.
func TestEndlessProgram(t *testing.T) {
	needNode(t)
	file := write(t, "a.config.js", `
require('node:child_process').spawn('sleep', ['1000'], { stdio: 'inherit' });
require('node:fs').writeFileSync(__dirname + '/begun', '');
for (;;);`)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for !exists(filepath.Join(filepath.Dir(file), "begun")) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel(errors.New("enough"))
	}()
	_, err := Read(ctx, file, keys, "")
	if want := "cannot evaluate " + file + ": enough"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A file may start what outlives it.
func TestProgramLeavesProcess(t *testing.T) {
	needNode(t)
	file := write(t, "a.config.js", `
require('node:child_process').spawn('sleep', ['3'], { stdio: 'inherit', detached: true }).unref();
module.exports = [{ script: '/x.js' }];`)
	equal(t, "script", read(t, file, "")[0].Script, "/x.js")
}

func TestWithoutNode(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	file := write(t, "a.config.js", "module.exports = {}")
	_, err := Read(t.Context(), file, keys, "")
	if want := "cannot evaluate " + file + ": node is not in the PATH"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// pm2Options are the options of one app without pm2's defaults.
func pm2Options(t *testing.T, text string) []string {
	t.Helper()
	apps := read(t, write(t, "app.json", `{"apps": [{"name": "n", "script": "/x.js", `+text+`}]}`), "")
	return slices.DeleteFunc(options(apps[0]), func(o string) bool {
		return slices.Contains([]string{
			"uid=n", "min-uptime=1s", "max-restarts=16/16s", "spin-sleep-time=1",
			"kill-signal=SIGINT", "kill-timeout=1600", "append=true",
		}, o)
	})
}

func TestPM2Values(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, c := range []struct{ members, want string }{
		{`"max_memory_restart": 314572800`, "max-memory=314572800"},
		{`"maxMemoryRestart": "1G"`, "max-memory=1G"},
		{`"cron_restart": 0`, ""},
		{`"cron": "* * * * *"`, "cron-restart=* * * * *"},
		{`"stop_exit_codes": 0`, "stop-exit-codes=0"},
		{`"autorestart": true`, ""},
		{`"max_restarts": 0`, "max-restarts=0"},
		{`"max_restarts": 3, "min_uptime": 500`, "min-uptime=500ms;max-restarts=3/1.5s"},
		{`"min_uptime": "2m"`, "min-uptime=2m0s;max-restarts=16/32m0s"},
		{`"restart_delay": 5, "exp_backoff_restart_delay": 7`, "spin-sleep-time=7;spin-sleep-max=15s"},
		{`"restart_delay": 0`, ""},
		{`"kill_timeout": 0`, "kill-timeout=0"},
		{`"treekill": false`, "kill-tree=false"},
		{`"log_date_format": "YYYY"`, "timestamps=true"},
		{`"log_date_format": "", "time": false`, ""},
		{`"log": "/l.log", "err": "~/e.log"`, "log-file=/l.log;err-file=" + home + "/e.log"},
		{`"output": "/dev/null"`, "out-file=/dev/null"},
		{`"disable_logs": true`, "silent=true"},
		{`"watch": true, "cwd": "/srv"`, "watch=true;working-dir=/srv;watch-directory=/srv"},
		{`"watch": "src", "cwd": "/srv"`, "watch=true;watch-directory=/srv/src;working-dir=/srv"},
		{`"watch": false`, "watch=false"},
		{`"user": "bob"`, "user=bob"},
		{`"uid": 1000, "gid": 100`, "user=1000:100"},
		{`"interpreter": "deno", "interpreter_args": "run -A"`, "command=deno run -A"},
		{`"interpreter": "node"`, "command=node"},
		{`"interpreter": "none"`, ""},
		{`"instances": 1`, ""},
		{`"instances": 1, "exec_mode": "cluster"`, "instances=1"},
		{`"instances": 4`, "instances=4"},
		{`"instances": "max", "execMode": "cluster_mode"`, "instances=max"},
		{`"instances": 0, "interpreter": "/usr/bin/node", "exec_mode": "cluster"`, "command=/usr/bin/node;instances=max"},
		{`"exec_mode": "cluster"`, "instances=1"},
		{`"instances": 2, "instance_var": "N", "out_file": "/o.log", "pid_file": "/p"`, "out-file=/o.log;pid-file=/p;instances=2;instance-var=N"},
		{`"instances": 1, "increment_var": "PORT", "exec_mode": "cluster"`, "instances=1"},
		{`"wait_ready": true, "listen_timeout": 8000`, "ready-timeout=8000;pm2-messages=true;ready=message"},
		{`"listen_timeout": 3000`, "ready-timeout=3000"},
		{`"wait_ready": true, "shutdown_with_message": true, "instances": 2`, "pm2-messages=true;ready=message;instances=2"},
		{`"shutdown_with_message": true`, "pm2-messages=true;ready=uptime"},
		{`"shutdown_with_message": true, "instances": 2`, "pm2-messages=true;ready=listening;instances=2"},
		{`"namespace": "x", "pmx": false, "force": true, "source_map_support": true`, ""},
		{`"wait_ready": false, "autostart": true, "watch_options": {"usePolling": false}, "filter_env": []`, ""},
		{`"error_file": null, "wait_ready": null`, ""},
	} {
		if got := strings.Join(pm2Options(t, c.members), ";"); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.members, got, c.want)
		}
	}
}

func TestPM2Errors(t *testing.T) {
	for _, c := range []struct{ members, pm2env, want string }{
		{`"instances": 2, "increment_var": "PORT"`, "", `FILE:1:47: "increment_var" needs exec_mode: "fork": the instances of a cluster share their environment`},
		{`"exec_mode": "spoon"`, "", `FILE:1:31: "exec_mode" takes "fork" or "cluster", not "spoon"`},
		{`"instances": 5000`, "", `FILE:1:31: "instances" takes a number up to 1000 or "max", not "5000"`},
		{`"wait_ready": "yes"`, "", `FILE:1:45: "wait_ready" takes true or false, not "yes"`},
		{`"listen_timeout": "3s"`, "", `FILE:1:49: "listen_timeout" takes milliseconds, not "3s"`},
		{`"autostart": false`, "", `FILE:1:31: "autostart" cannot be done here: all apps of a file are started: leave the app out`},
		{`"watch_options": {"usePolling": true}`, "", `FILE:1:31: "watch_options" cannot be done here: they are chokidar's: use watch, ignore_watch and, where inotify is blind, --watch-poll`},
		{`"watch_delay": 1`, "", `FILE:1:31: "watch_delay" cannot be done here: changes are gathered for 100 ms: leave it out`},
		{`"max_memory_restart": "300MB"`, "", `FILE:1:53: "max_memory_restart" takes bytes, or a size such as 300M, 1G, not "300MB"`},
		{`"min_uptime": 10`, "", `FILE:1:31: "min_uptime" takes 100 milliseconds or more, not "10"`},
		{`"min_uptime": "soon"`, "", `FILE:1:45: "min_uptime" takes milliseconds of 100 or more, or a time such as 10s, 5m, 1h, not "soon"`},
		{`"min_uptime": "9999h", "max_restarts": 9999999999`, "", `FILE:1:54: "max_restarts" times "min_uptime" is more than 292 years`},
		{`"gid": 5`, "", `FILE:1:31: "gid" needs "uid"`},
		{`"interpreter": "node@18"`, "", `FILE:1:31: "node@18" is for nvm: give the path of that node`},
		{`"out_file": "a", "output": "b"`, "", `FILE:1:48: "output" sets what "out_file" has set already: use one of them`},
		{`"env_prod": 5`, "", `FILE:1:43: "env_prod" takes an object, not a number`},
		{`"env_prod": {}, "env_dev": {}`, "x", `FILE has no env_x: --env takes dev, prod`},
		{`"env": {}`, "x", `FILE has no env_x, nor any other`},
		{`"increment_var": "PORT", "env": {"PORT": "a"}`, "", `FILE:1:31: the variable PORT takes a number, not "a": "increment_var" adds to it`},
		{`"intances": 1`, "", `FILE:1:31: unknown key "intances": did you mean "instances"?`},
	} {
		file := write(t, "app.json", `{"apps": [{"script": "/x.js", `+c.members+`}]}`)
		_, err := Read(t.Context(), file, keys, c.pm2env)
		if err == nil {
			t.Errorf("%s: no error", c.members)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), file, "FILE"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.members, got, c.want)
		}
	}
	file := write(t, "app.json", `{"script": "/x.js"}`)
	if _, err := Read(t.Context(), file, keys, "x"); err == nil || !strings.Contains(err.Error(), "has no env_x: --env is for pm2's files") {
		t.Errorf("--env with forever's file: %v", err)
	}
	file = write(t, "app.json", `{"apps": [{"script": "/x.js"}], "deply": {}}`)
	if _, err := Read(t.Context(), file, keys, ""); err == nil || !strings.HasSuffix(err.Error(), `unknown key "deply": did you mean "deploy"?`) {
		t.Errorf("an unknown key at the top: %v", err)
	}
}

// An app without the environment that others have keeps its own.
func TestPM2EnvironmentOfSome(t *testing.T) {
	apps := read(t, write(t, "app.json", `{"apps": [
		{"script": "/a.js", "env": {"X": 1}, "env_prod": {"X": 2}},
		{"script": "/b.js", "env": {"X": 1}, "port": 80}]}`), "prod")
	equal(t, "env", apps[0].Env, []string{"NODE_APP_INSTANCE=0", "X=2"})
	equal(t, "env", apps[1].Env, []string{"NODE_APP_INSTANCE=0", "PORT=80", "X=1"})
}

func TestPM2Instances(t *testing.T) {
	for text, want := range map[string]int{
		`3`: 3, `"3"`: 3, `"max"`: runtime.NumCPU(), `0`: runtime.NumCPU(), `-1`: max(runtime.NumCPU()-1, 1),
	} {
		apps := read(t, write(t, "app.json", `{"apps": [{"script": "/a.js", "exec_mode": "fork", "instance_var": "N",
			"out_file": "/o.log", "merge_logs": true, "pid_file": "/p", "instances": `+text+`}]}`), "")
		if len(apps) != want {
			t.Errorf("instances: %s gives %d apps, want %d", text, len(apps), want)
			continue
		}
		last := apps[want-1]
		equal(t, "env", last.Env, []string{fmt.Sprintf("N=%d", want-1)})
		equal(t, "out-file", last.value("out-file"), "/o.log")
		if want > 1 {
			equal(t, "uid", last.value("uid"), fmt.Sprintf("a-%d", want-1))
			equal(t, "pid-file", last.value("pid-file"), fmt.Sprintf("/p-%d", want-1))
		}
	}
}

// The processes of a cluster are one app.
func TestPM2Cluster(t *testing.T) {
	apps := read(t, write(t, "app.json", `{"apps": [{"script": "/a.js", "instances": 3, "instance_var": "N", "env": {"PORT": 80}}]}`), "")
	if len(apps) != 1 || apps[0].Name != "a" {
		t.Fatalf("%+v", apps)
	}
	equal(t, "env", apps[0].Env, []string{"PORT=80"})
	var key string
	for _, o := range apps[0].Options {
		if o.Name == "instances" {
			key = o.Key
		}
	}
	equal(t, "the key of the option instances", key, "instances")
}

// What is no file may be a command of the PATH, or a line for a shell.
func TestPM2Commands(t *testing.T) {
	bin := filepath.Dir(write(t, "npm", "", "bash"))
	for _, name := range []string{"npm", "bash"} {
		if err := os.Chmod(filepath.Join(bin, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	dir := filepath.Dir(write(t, "tool", "\x7fELF...", "run.py", "my app.js", "x.ts"))
	t.Chdir(dir)
	for _, c := range []struct {
		app, script, command string
		direct               bool
		args                 []string
	}{
		{`"script": "npm", "args": "run web"`, bin + "/npm", "", true, []string{"run", "web"}},
		{`"script": "npm", "node_args": "-r x"`, bin + "/npm", "node -r x", false, nil},
		{`"script": "npm start"`, bin + "/bash", "", true, []string{"-c", "npm start"}},
		{`"script": "my app.js"`, dir + "/my app.js", "", false, nil},
		{`"script": "run.py"`, dir + "/run.py", "python3", false, nil},
		{`"script": "tool"`, dir + "/tool", "", true, nil},
		{`"script": "./tool", "interpreter": "qemu-x86_64"`, dir + "/tool", "qemu-x86_64", false, nil},
		{`"script": "x.ts", "interpreter": "bun"`, dir + "/x.ts", "bun", false, nil},
		{`"script": "none.js"`, dir + "/none.js", "", false, nil},
	} {
		a := read(t, write(t, "app.json", `{"apps": [{`+c.app+`}]}`), "")[0]
		if a.Script != c.script || a.value("command") != c.command || a.Direct != c.direct || !slices.Equal(a.Args, c.args) {
			t.Errorf("%s gives %+v", c.app, a)
		}
	}
	for app, want := range map[string]string{
		`"script": "npm start", "args": "x"`: `"script" is a command line: write "args" into it`,
		`"script": "x.ts"`:                   `versions of pm2 differ in what runs a .ts file: name it by "interpreter"`,
	} {
		_, err := Read(t.Context(), write(t, "app.json", `{"apps": [{`+app+`}]}`), keys, "")
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", app, err, want)
		}
	}
}

// A file called ecosystem is pm2's without a list of apps too.
func TestEcosystemJSON(t *testing.T) {
	a := read(t, write(t, "ecosystem.json", `[{"script": "/a.js", "name": "x", "instances": 1}]`), "")[0]
	equal(t, "name", a.Name, "x")
}

// Every key of the table is found by its names, stands there once, and says
// what becomes of it.
func TestPM2Table(t *testing.T) {
	seen := map[string]string{}
	for i, k := range pm2Keys {
		for _, name := range append([]string{k.key}, k.aliases...) {
			if seen[name] != "" {
				t.Errorf("%q is both %s and %s", name, seen[name], k.key)
			}
			seen[name] = k.key
			if pm2Key(name) != &pm2Keys[i] {
				t.Errorf("%q is not found", name)
			}
		}
		if k.option == "" && k.note == "" {
			t.Errorf("nothing is said of %q", k.key)
		}
		if k.refused && (k.read != nil || k.option != "") {
			t.Errorf("%q is refused and read", k.key)
		}
	}
	if got := len(PM2Keys()); got != len(pm2Keys) {
		t.Errorf("%d keys are told of, there are %d", got, len(pm2Keys))
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"testdata/app.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"apps": [{"script": "a.js", "instances": 2, "exec_mode": "fork", "env": {"A": [1]}, "watch": ["x"]}]}`))
	f.Add([]byte(`{"apps": [{"script": "a.js", "instances": "max", "wait_ready": true, "listen_timeout": 10}]}`))
	f.Add([]byte(`[{"script": "a.js", "args": "a b"}, {"script": "b", "max": 1e5}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := &reader{keys: keys, path: "app.json", dir: "/nonexistent", text: text}
		apps, err := r.apps("")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") || apps != nil {
				t.Errorf("%d apps and the error %q", len(apps), err)
			}
			return
		}
		if len(apps) == 0 {
			t.Error("neither an app nor an error")
		}
		for _, a := range apps {
			seen := map[string]bool{}
			for _, o := range a.Options {
				kind, known := keys.Options[o.Name]
				if !known || seen[o.Name] || len(o.Values) == 0 || kind != List && len(o.Values) > 1 {
					t.Errorf("option %+v", o)
				}
				seen[o.Name] = true
			}
			if a.Script == "" || a.Name == "" || strings.Contains(strings.Join(append(a.Args, a.Env...), ""), "\x00") {
				t.Errorf("app %+v", a)
			}
		}
	})
}
