package appfile

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailscale/hujson"
)

// What holds in pm2 where its file says nothing (lib/God.js, constants.js).
const (
	pm2MinUptime   = time.Second
	pm2MaxRestarts = 16
	pm2KillSignal  = "SIGINT"
	pm2KillTimeout = "1600"
	// pm2BackoffMax is the longest pause of exp_backoff_restart_delay.
	pm2BackoffMax = "15s"
	// pm2Pause stands for none: without any, a spinning app is given up at once.
	pm2Pause = "1"
)

// maxInstances is far more than any host has CPUs.
const maxInstances = 1000

// pm2Interpreters are pm2's by extension (lib/API/interpreter.json); python is
// python3 on today's systems.
var pm2Interpreters = map[string]string{
	".sh": "bash", ".py": "python3", ".rb": "ruby", ".php": "php", ".pl": "perl", ".coffee": "coffee", ".ls": "lsc",
}

// pm2App is one app in pm2's words.
type pm2App struct {
	*reader
	at    hujson.Value
	app   App               // with the options that need no more thought
	given map[string]member // what the file gives, by the keys of the table

	script, name, cwd      string
	interpreter            string
	args, interpreterArgs  []string
	env, chosen            map[string]string // chosen: the env_NAME that was asked for
	port                   string
	instances, mode        string
	instanceVar            string
	incrementVar           string
	user, group            string
	minUptime, maxRestarts string
	restartDelay, backoff  string
	mergeLogs, timestamps  bool
	waitReady              bool
	shutdownMessage        bool
}

// pm2List gives the elements of "apps", and reports what else is at the top.
func (r *reader) pm2List(top hujson.Value) ([]hujson.Value, error) {
	members, err := r.members(top, "the file")
	if err != nil {
		return nil, err
	}
	known := []string{"apps", "deploy"}
	var apps hujson.Value
	for _, m := range members {
		switch {
		case m.key == "apps":
			apps = m.value
		case !slices.Contains(known, m.key):
			return nil, r.misspelt(m, known)
		}
	}
	switch v := apps.Value.(type) {
	case *hujson.Array:
		return v.Elements, nil
	case *hujson.Object:
		return []hujson.Value{apps}, nil
	}
	return nil, r.errorAt(apps, "\"apps\" takes an array of objects, not %s", article(apps))
}

// hasEnvironment reports when no app has an env_NAME of the NAME asked for. In
// pm2 an app that lacks it runs with env alone; a NAME that none has is a typing
// error.
func (r *reader) hasEnvironment(list []hujson.Value, asked string) error {
	names := map[string]bool{}
	for _, v := range list {
		if object, ok := v.Value.(*hujson.Object); ok {
			for _, m := range object.Members {
				if name, ok := environment(m.Name.Value.(hujson.Literal).String()); ok {
					names[name] = true
				}
			}
		}
	}
	switch {
	case asked == "" || names[asked]:
		return nil
	case len(names) == 0:
		return fmt.Errorf("%s has no env_%s, nor any other", r.path, asked)
	}
	return fmt.Errorf("%s has no env_%s: --env takes %s", r.path, asked, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

// environment is the NAME of a key env_NAME.
func environment(key string) (string, bool) {
	name, ok := strings.CutPrefix(key, "env_")
	return name, ok && name != ""
}

// pm2Apps reads an object in pm2's words. It gives one app for a cluster, and else
// one for each instance.
func (r *reader) pm2Apps(v hujson.Value, pm2env string) ([]App, error) {
	a := &pm2App{reader: r, at: v, given: map[string]member{}, env: map[string]string{}}
	members, err := r.members(v, "an app")
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if err := a.read(m, pm2env); err != nil {
			return nil, err
		}
	}
	if a.script == "" {
		return nil, r.noScript(v)
	}
	n, err := a.count()
	if err != nil {
		return nil, err
	}
	cluster, err := a.isCluster(n)
	if err != nil {
		return nil, err
	}
	if err := a.finish(cluster); err != nil {
		return nil, err
	}
	if cluster {
		app, err := a.cluster(n)
		return []App{app}, err
	}
	apps := make([]App, n)
	for i := range apps {
		if apps[i], err = a.instance(i, n); err != nil {
			return nil, err
		}
	}
	return apps, nil
}

// read reads one key.
func (a *pm2App) read(m member, pm2env string) error {
	k := pm2Key(m.key)
	if k == nil {
		return a.readChosen(m, pm2env)
	}
	if before, twice := a.given[k.key]; twice {
		return a.errorAt(m.at, "%q sets what %q has set already: use one of them", m.key, before.key)
	}
	literal, _ := m.value.Value.(hujson.Literal)
	switch {
	case string(literal) == "null":
		return nil // to pm2 as if it were not there
	case k.refused:
		if k.fine == "" && off(m.value) || k.fine != "" && string(literal) == k.fine {
			return nil
		}
		return a.errorAt(m.at, "%q cannot be done here: %s", m.key, k.note)
	}
	a.given[k.key] = m
	if k.read == nil {
		return nil
	}
	return k.read(a, m)
}

// readChosen reads a key that is not in the table: env_NAME.
func (a *pm2App) readChosen(m member, pm2env string) error {
	name, ok := environment(m.key)
	if !ok {
		names := []string{"apps"} // the top of the file may be taken for an app
		for _, k := range pm2Keys {
			names = append(names, k.key)
		}
		return a.misspelt(m, names)
	}
	vars, err := a.readEnv(m.value, m.key, true)
	if name == pm2env {
		a.chosen = vars
	}
	return err
}

// errorOf is an error about a key of the table.
func (a *pm2App) errorOf(key, format string, args ...any) error {
	if m, ok := a.given[key]; ok {
		return a.errorAt(m.at, format, args...)
	}
	return a.errorAt(a.at, format, args...)
}

// count is how many instances there are.
func (a *pm2App) count() (int, error) {
	n := 1
	var err error
	switch a.instances {
	case "":
	case "max":
		n = runtime.NumCPU()
	default:
		if n, err = strconv.Atoi(a.instances); err != nil || n > maxInstances {
			return 0, a.errorOf("instances", "\"instances\" takes a number up to %d or \"max\", not %q", maxInstances, a.instances)
		}
		// As in God.prepare: 0 is all CPUs, -1 all but one.
		if n <= 0 {
			n = max(runtime.NumCPU()+n, 1)
		}
	}
	return n, nil
}

// isCluster tells whether n instances are processes of one app. A single one that
// is a cluster only by pm2's default (Common.determineExecMode) is none here: it
// need not listen on any port.
func (a *pm2App) isCluster(n int) (bool, error) {
	switch strings.TrimSuffix(a.mode, "_mode") {
	case "fork":
		return false, nil
	case "cluster":
		return true, nil
	case "":
		byNode := strings.HasSuffix(a.interpreter, "node") ||
			a.interpreter == "" && pm2Interpreters[filepath.Ext(a.script)] == ""
		return n > 1 && byNode, nil
	}
	return false, a.errorOf("exec_mode", "\"exec_mode\" takes \"fork\" or \"cluster\", not %q", a.mode)
}

// finish reads what depends on several keys.
func (a *pm2App) finish(cluster bool) error {
	if a.cwd != "" {
		a.cwd = a.resolve(home(a.cwd))
	}
	if a.name == "" {
		a.name = filepath.Base(a.script)
		a.name = cmp.Or(strings.TrimSuffix(a.name, filepath.Ext(a.name)), a.name)
	}
	command, err := a.command()
	if err != nil {
		return err
	}
	least, rate, err := a.limits()
	if err != nil {
		return err
	}
	pauseKey, pause, longest := "restart_delay", a.restartDelay, ""
	if strings.Trim(a.backoff, "0") != "" {
		pauseKey, pause, longest = "exp_backoff_restart_delay", a.backoff, pm2BackoffMax
	}
	if strings.Trim(pause, "0") == "" {
		pause = pm2Pause
	}
	user := a.user
	if a.group != "" {
		if user == "" {
			return a.errorOf("gid", "\"gid\" needs \"uid\"")
		}
		user += ":" + a.group
	}
	timestamps, killTimeout, watched := "", "", ""
	messages, messagesKey, ready := "", "shutdown_with_message", ""
	if a.waitReady || a.shutdownMessage {
		messages = "true"
		// --pm2-messages alone would wait for the message.
		switch {
		case a.waitReady:
			messagesKey, ready = "wait_ready", "message"
		case cluster:
			ready = "listening"
		default:
			ready = "uptime"
		}
	}
	if a.timestamps {
		timestamps = "true"
	}
	if _, ok := a.given["kill_timeout"]; !ok {
		killTimeout = pm2KillTimeout
	}
	if a.app.value("watch") == "true" && a.app.value("watch-directory") == "" {
		watched = a.cwd
	}
	for _, o := range []struct{ name, key, value string }{
		{"uid", "name", a.name},
		{"working-dir", "cwd", a.cwd},
		{"command", "interpreter", command},
		{"user", "uid", user},
		{"min-uptime", "min_uptime", least},
		{"max-restarts", "max_restarts", rate},
		{"spin-sleep-time", pauseKey, pause},
		{"spin-sleep-max", pauseKey, longest},
		{"kill-signal", "", pm2KillSignal},
		{"kill-timeout", "kill_timeout", killTimeout},
		{"pm2-messages", messagesKey, messages},
		{"ready", messagesKey, ready},
		{"timestamps", "time", timestamps},
		{"watch-directory", "watch", watched},
		{"append", "", "true"},
	} {
		if o.value == "" {
			continue
		}
		if err := a.add(&a.app, o.name, a.given[o.key], o.value); err != nil {
			return err
		}
	}
	a.place()
	maps.Copy(a.env, a.chosen)
	if a.port != "" {
		a.env["PORT"] = a.port
	}
	return nil
}

// command finds the script and gives what runs it; "": node, or the script is
// run by itself.
func (a *pm2App) command() (string, error) {
	a.app.Script, a.app.Args = a.reader.script(home(a.script), a.cwd), a.args
	if !exists(a.app.Script) {
		path, err := exec.LookPath(a.script)
		switch {
		case err == nil && !strings.Contains(a.script, "/"):
			a.app.Script = path
			a.app.Direct = a.interpreter == "" && len(a.interpreterArgs) == 0
		case strings.Contains(a.script, " "):
			return "", a.shell()
		}
	}
	interpreter, ext := a.interpreter, filepath.Ext(a.app.Script)
	if interpreter == "" && !a.app.Direct {
		if ext == ".ts" || ext == ".tsx" {
			return "", a.errorOf("script", "versions of pm2 differ in what runs a %s file: name it by \"interpreter\"", ext)
		}
		interpreter = pm2Interpreters[ext]
	}
	switch {
	case strings.HasPrefix(interpreter, "node@"):
		return "", a.errorOf("interpreter", "%q is for nvm: give the path of that node", interpreter)
	case interpreter == "none", interpreter == "" && isELF(a.app.Script):
		a.app.Direct = true
	case interpreter == "" && len(a.interpreterArgs) > 0:
		interpreter = "node"
	}
	if a.app.Direct || interpreter == "" {
		return "", nil
	}
	if strings.Contains(interpreter, "python") {
		a.env["PYTHONUNBUFFERED"] = "1" // as Common.sink.resolveInterpreter
	}
	return quote(append([]string{home(interpreter)}, a.interpreterArgs...)), nil
}

// shell has a shell run a script that is a command line, as pm2 does.
func (a *pm2App) shell() error {
	if len(a.args) > 0 {
		return a.errorOf("args", "\"script\" is a command line: write \"args\" into it")
	}
	shell, err := exec.LookPath("bash")
	if err != nil {
		shell = "/bin/sh"
	}
	a.app.Script, a.app.Direct, a.app.Args = shell, true, []string{"-c", a.script}
	return nil
}

// limits are min-uptime and max-restarts.
func (a *pm2App) limits() (least, rate string, err error) {
	uptime, restarts := pm2MinUptime, int64(pm2MaxRestarts)
	if a.minUptime != "" {
		text := a.minUptime
		if strings.Trim(text, "0123456789") == "" {
			text += "ms"
		}
		if uptime, err = time.ParseDuration(text); err != nil || uptime < 100*time.Millisecond {
			return "", "", a.errorOf("min_uptime", "\"min_uptime\" takes 100 milliseconds or more, not %q", a.minUptime)
		}
	}
	if a.maxRestarts != "" {
		// Its form has been checked.
		restarts, _ = strconv.ParseInt(a.maxRestarts, 10, 64)
	}
	if restarts == 0 {
		return uptime.String(), "0", nil
	}
	if int64(uptime) > math.MaxInt64/restarts {
		return "", "", a.errorOf("max_restarts", "\"max_restarts\" times \"min_uptime\" is more than 292 years")
	}
	return uptime.String(), fmt.Sprintf("%d/%s", restarts, time.Duration(restarts)*uptime), nil
}

// written are the options that name files which are written. pm2 has these in
// the app's working directory.
var written = []string{"out-file", "err-file", "log-file", "pid-file"}

// place makes the paths of the options absolute.
func (a *pm2App) place() {
	for _, o := range a.app.Options {
		for i, path := range o.Values {
			path = home(path)
			switch {
			case slices.Contains(written, o.Name) || o.Name == "watch-directory" && a.cwd != "":
				if !filepath.IsAbs(path) {
					path = filepath.Join(a.cwd, path)
				}
				if abs, err := filepath.Abs(path); err == nil {
					path = abs
				}
				o.Values[i] = path
			case o.Name == "watch-directory":
				o.Values[i] = a.resolve(path)
			}
		}
	}
}

// cluster is the app of n processes.
func (a *pm2App) cluster(n int) (App, error) {
	if n > 1 && a.incrementVar != "" {
		return App{}, a.errorOf("increment_var", "\"increment_var\" needs exec_mode: \"fork\": the instances of a cluster share their environment")
	}
	instances := strconv.Itoa(n)
	if a.instances == "max" || a.instances == "0" {
		instances = "max" // which knows the limits of a container
	}
	app := a.app
	app.Env, app.Name = environ(a.env), app.value("uid")
	for _, o := range []struct{ name, key, value string }{
		{"instances", "instances", instances},
		{"instance-var", "instance_var", a.instanceVar},
	} {
		if o.value == "" {
			continue
		}
		if err := a.add(&app, o.name, a.given[o.key], o.value); err != nil {
			return App{}, err
		}
	}
	return app, nil
}

// instance is the ith of n instances with a port each, from 0.
func (a *pm2App) instance(i, n int) (App, error) {
	app, env := a.app, maps.Clone(a.env)
	env[cmp.Or(a.instanceVar, "NODE_APP_INSTANCE")] = strconv.Itoa(i)
	if a.incrementVar != "" {
		first, err := strconv.Atoi(cmp.Or(env[a.incrementVar], "0"))
		if err != nil {
			return app, a.errorOf("increment_var", "the variable %s takes a number, not %q: \"increment_var\" adds to it", a.incrementVar, env[a.incrementVar])
		}
		env[a.incrementVar] = strconv.Itoa(first + i)
	}
	app.Env = environ(env)
	app.Args = slices.Clone(app.Args)
	app.Options = slices.Clone(app.Options)
	for j := range app.Options {
		o := &app.Options[j]
		o.Values = slices.Clone(o.Values)
		switch {
		case n == 1:
		case o.Name == "uid":
			o.Values[0] += fmt.Sprintf("-%d", i)
		case o.Name == "pid-file", slices.Contains(written, o.Name) && !a.mergeLogs && o.Values[0] != os.DevNull:
			ext := filepath.Ext(o.Values[0])
			o.Values[0] = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(o.Values[0], ext), i, ext)
		}
	}
	app.Name = app.value("uid")
	if n > 1 {
		// Together they answer to the name that pm2 has for them.
		app.Options = append(app.Options, Option{Name: "id", Values: []string{a.app.value("uid")}})
	}
	return app, nil
}

// home replaces the ~ that pm2 takes for the home directory.
func home(path string) string {
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/') {
		if dir, err := os.UserHomeDir(); err == nil {
			return filepath.Join(dir, rest)
		}
	}
	return path
}

// isELF tells whether a file is a program of its own (elf(5)).
func isELF(path string) bool {
	// Opening a FIFO would wait for its writer.
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == "\x7fELF"
}

// quote joins words into a command line that a shell would split into them.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; w == "" || strings.ContainsAny(w, " \t\r\n'\"\\") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
