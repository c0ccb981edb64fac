package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRestartsInGoodOrder(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// Memory is looked at every 5 s: these begin first.
	h.start("memory", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo full; while :; do sleep 0.1; done\n", "--max-memory", "20M")
	h.start("cron", "while :; do sleep 0.1; done\n", "--cron-restart", "* * * * * *")
	h.start("lasting", "while :; do sleep 0.1; done\n", "--max-run-time", "300ms")

	lasting := h.await("lasting", "is restarted by --max-run-time", func(r row) bool { return r.Restarts >= 2 })
	if lasting.LastExit.Reason != "request" {
		t.Errorf("--max-run-time: %+v", *lasting.LastExit)
	}
	h.awaitLog("lasting", `it has run for 300ms`)
	cron := h.await("cron", "is restarted by --cron-restart", func(r row) bool { return r.Restarts >= 2 })
	if cron.LastExit.Reason != "request" {
		t.Errorf("--cron-restart: %+v", *cron.LastExit)
	}

	// What is given as an end is none to restart after.
	h.start("coded", "exit 3\n", "--stop-exit-codes", "0,3", "--spin-sleep-time", "1h")
	coded := h.await("coded", "has ended for good", func(r row) bool { return r.Status == "stopped" })
	if coded.Ended.Code != 3 || strings.Contains(h.log("coded"), "restarting") {
		t.Errorf("--stop-exit-codes: %+v, log:\n%s", *coded.Ended, h.log("coded"))
	}
	h.start("other", "exit 4\n", "--stop-exit-codes", "0,3", "--spin-sleep-time", "1h")
	h.await("other", "pauses", func(r row) bool { return r.State == "backoff" })

	// The hook gets to know how it ended.
	h.file("hook.sh", `env | grep ^EVERMORE_EXIT_ | sort > "$0.new"; mv "$0.new" "$0.$EVERMORE_EXIT_UID"; echo hooked`+"\n")
	h.start("hooked", "exit 9\n", "--on-exit", "sh "+h.path("hook.sh"), "--spin-sleep-time", "1h")
	h.awaitText("hook.sh.hooked", `^EVERMORE_EXIT_CODE=9\n(?s:.*)EVERMORE_EXIT_REASON=exit\n(?s:.*)EVERMORE_EXIT_SIGNAL=\nEVERMORE_EXIT_UID=hooked\nEVERMORE_EXIT_UPTIME_MS=\d+\n$`)
	killed := h.start("hookedbysignal", sleeper, "--on-exit", "sh "+h.path("hook.sh"), "--spin-sleep-time", "1h")
	h.kill(killed.PID, syscall.SIGKILL)
	h.awaitText("hook.sh.hookedbysignal", `(?s)^EVERMORE_EXIT_CODE=\n.*EVERMORE_EXIT_REASON=signal\nEVERMORE_EXIT_RESTARTS=0\nEVERMORE_EXIT_SIGNAL=SIGKILL\nEVERMORE_EXIT_UID=hookedbysignal`)

	// Variables of a file are read before each start; the environment wins.
	h.file("vars", "A=one\nB=\"of the file\"\n")
	h.file("env.sh", `echo "$A/$B" >> env.txt; exec sleep 100000`+"\n")
	if r := h.runWith([]string{"B=of the environment"}, "evermore", "start", "--uid", "env", "--env-file", "vars", "-c", "sh", "env.sh"); r.code != 0 {
		t.Fatal(r)
	}
	h.awaitText("env.txt", "^one/of the environment\n$")
	h.file("vars", "A=two\n")
	h.ok("evermore", "restart", "env")
	h.awaitText("env.txt", "^one/of the environment\ntwo/of the environment\n$")
	// One that cannot be read any more ends nothing.
	if err := os.Remove(h.path("vars")); err != nil {
		t.Fatal(err)
	}
	h.ok("evermore", "restart", "env")
	h.awaitText("env.txt", "^one/of the environment\ntwo/of the environment\ntwo/of the environment\n$")
	h.awaitLog("env", "vars")

	memory := h.await("memory", "is restarted by --max-memory", func(r row) bool { return r.Restarts >= 1 })
	if memory.LastExit.Reason != "memory" {
		t.Errorf("--max-memory: %+v", *memory.LastExit)
	}
	h.awaitLog("memory", `it uses \d+ MB of memory, more than \d+ MB`)
	h.ok("evermore", "stopall")
	h.isEmpty()
}

func TestConfig(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	type effective struct {
		Option string   `json:"option"`
		Value  []string `json:"value"`
		From   string   `json:"from"`
	}
	value := func(option string, env ...string) (string, string) {
		t.Helper()
		r := h.runWith(env, "evermore", "config", "--effective", "--json")
		var rows []effective
		if err := json.Unmarshal([]byte(r.out), &rows); r.code != 0 || err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		i := slices.IndexFunc(rows, func(e effective) bool { return e.Option == option })
		if i < 0 {
			t.Fatalf("there is no %s in %s", option, r.out)
		}
		return strings.Join(rows[i].Value, ","), rows[i].From
	}
	expect := func(option, wantValue, wantFrom string, env ...string) {
		t.Helper()
		if v, from := value(option, env...); v != wantValue || from != wantFrom {
			t.Errorf("%s is %q from %q, want %q from %q", option, v, from, wantValue, wantFrom)
		}
	}
	expect("min-uptime", "1s", "default")
	h.ok("evermore", "set", "minUptime", "2000")
	h.ok("evermore", "set", "kill-timeout", "3s")
	expect("min-uptime", "2000", "evermore set minUptime")
	expect("kill-timeout", "3s", "evermore set kill-timeout")
	expect("min-uptime", "5s", "EVERMORE_MIN_UPTIME", "EVERMORE_MIN_UPTIME=5s")
	h.fails(2, `minUptime: cannot read "soon" as a time`, "evermore", "set", "minUptime", "soon")
	if out := h.ok("evermore", "config"); !strings.Contains(out, "minUptime: '2000'") {
		t.Errorf("config:\n%s", out)
	}
	h.fails(2, "it is made of letters", "evermore", "set", "a b", "1")
	h.fails(2, "cannot be set", "evermore", "set", "root", "/")

	// What a daemon gets: flag, variable, file, set, built in.
	h.file("a.sh", sleeper)
	h.file("app.json", `{ // comments are allowed
		"uid": "json", "script": "a.sh", "command": "sh", "killTimeout": 400, /* forever's keys */
		"env": {"WHO": "json"}, "args": ["x", "y"],
	}`)
	timeout := func(uid string) string {
		t.Helper()
		defer h.ok("evermore", "stop", uid)
		pid := h.init.outside(h.app(uid).Supervisor)
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`--kill-timeout=([^\x00]*)`).FindSubmatch(text)
		if m == nil {
			return ""
		}
		return string(m[1])
	}
	for _, c := range []struct {
		want, env, uid string
		argv           []string
	}{
		{"3s", "", "set", []string{"--uid", "set", "-c", "sh", "a.sh"}},
		{"400", "", "json", []string{"app.json"}},
		{"500", "EVERMORE_KILL_TIMEOUT=500", "json", []string{"app.json"}},
		{"600", "EVERMORE_KILL_TIMEOUT=500", "json", []string{"--kill-timeout", "600", "app.json"}},
		{"500", "EVERMORE_KILL_TIMEOUT=500", "flag", []string{"--uid", "flag", "-c", "sh", "a.sh"}},
	} {
		if r := h.runWith([]string{c.env}, append([]string{"evermore", "start", "-a"}, c.argv...)...); r.code != 0 {
			t.Fatal(r)
		}
		if got := timeout(c.uid); got != c.want {
			t.Errorf("%q with %q gives a --kill-timeout of %q, want %q", c.argv, c.env, got, c.want)
		}
	}
	h.ok("evermore", "clear", "kill-timeout")
	h.ok("evermore", "clear", "minUptime")
	expect("min-uptime", "1s", "default")

	h.ok("evermore", "columns", "set", "uid", "cpu", "memory", "restarts", "ready", "instances")
	h.ok("evermore", "start", "--uid", "columned", "-c", "sh", "a.sh")
	h.awaitLog("columned", "up")
	if out := h.ok("evermore", "list"); !regexp.MustCompile(`uid +cpu +memory +restarts +ready +instances *\ndata: +\[0\] columned +\d+\.\d% +\d+\.\dMB +0 +(yes +1/1|no +0/1)`).MatchString(out) {
		t.Errorf("list:\n%s", out)
	}
	h.fails(1, "Unknown column: bogus", "evermore", "columns", "add", "bogus")
	h.ok("evermore", "columns", "reset")
	h.ok("evermore", "stopall")
	h.isEmpty()
}

func TestAppFiles(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.copyTree(filepath.Join("testdata", "daemon"))
	h.ok("evermore", "start", "apps/forever.json")
	if rows := h.list(); len(rows) != 2 || rows[0].UID != "first" || rows[1].UID != "second" {
		t.Fatalf("%+v", rows)
	}
	h.awaitText("first.txt", `^WHO=json ENVFILE=of the file args=-x --y z\n$`)
	h.awaitText("second.txt", `^WHO= ENVFILE= args=\n$`)
	h.fails(1, `misspelt\.json:3:3: unknown key "minUptme": did you mean "minUptime"\?`, "evermore", "start", "apps/misspelt.json")

	needs(t, "node")
	h.ok("evermore", "start", "--env", "production", "apps/ecosystem.config.js")
	var uids []string
	for _, r := range h.list() {
		uids = append(uids, r.UID)
	}
	if !slices.Equal(uids, []string{"first", "second", "web-0", "web-1", "job"}) {
		t.Errorf("these run: %q", uids)
	}
	h.awaitText("web.txt", `^(NODE_ENV=production args=one two\n){2}$`)
	h.awaitText("job.txt", `^NODE_ENV=production args=one two\n$`)
	h.ok("evermore", "stopall")
	h.isEmpty()
}

// TestPM2Cluster: what pm2 runs as a cluster is one app, whose processes are told
// apart by their variable, say that they are ready, and are replaced by a reload.
func TestPM2Cluster(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	h.file("server.js", `
const server = require('node:http').createServer((_, r) => r.end('ok'));
server.listen(process.env.PORT, () => { console.log('ready', process.env.NUMBER); process.send('ready'); });
process.on('message', (m) => { if (m === 'shutdown') { console.log('shutdown', process.env.NUMBER); process.exit(3); } });
`)
	h.file("ecosystem.config.js", fmt.Sprintf(`module.exports = { apps: [{
	name: 'web', script: 'server.js', instances: 2, instance_var: 'NUMBER', env: { PORT: %d },
	wait_ready: true, listen_timeout: 20000, shutdown_with_message: true, kill_timeout: 20000,
}] };`, port))
	h.ok("evermore", "start", "ecosystem.config.js")
	workers := func() string {
		var ready []string
		for _, w := range h.app("web").Workers {
			ready = append(ready, fmt.Sprintf("%d:%t", w.Worker, w.Ready))
		}
		return strings.Join(ready, " ")
	}
	eventually(t, "both are ready", func() bool { return workers() == "0:true 1:true" })
	h.awaitLog("web", `ready 0\n`)
	h.awaitLog("web", `ready 1\n`)

	h.ok("evermore", "reload", "ecosystem.config.js")
	if log := h.log("web"); strings.Count(log, "shutdown 0\n") != 1 || strings.Count(log, "shutdown 1\n") != 1 ||
		strings.Count(log, "ready 0\n") != 2 || strings.Count(log, "ready 1\n") != 2 {
		t.Errorf("the log of a reload:\n%s", log)
	}
	if got := workers(); got != "0:true 1:true" {
		t.Errorf("ready after a reload: %s", got)
	}
	h.fails(255, "what pm2 calls gracefulReload is: evermore reload", "evermore", "gracefulReload", "web")
	h.ok("evermore", "scale", "web", "1")
	eventually(t, "one is left", func() bool { return workers() == "0:true" })
	h.ok("evermore", "stopall")
	h.isEmpty()
}

// TestSaveAndResurrect is a reboot, as far as evermore's folder can tell.
func TestSaveAndResurrect(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	text := `echo "$FROM_SHELL|$*" >> "$0.txt"; exec sleep 100000` + "\n"
	for _, uid := range []string{"a", "b"} {
		h.file(uid+".sh", text)
		if r := h.runWith([]string{"FROM_SHELL=yes it is"}, "evermore", "start", "--uid", uid, "-c", "sh", uid+".sh", "arg of "+uid, "$x"); r.code != 0 {
			t.Fatal(r)
		}
	}
	h.ok("evermore", "save")
	saved := filepath.Join(h.root, "saved.json")
	if info, err := os.Stat(saved); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has the mode %v, %v: it holds the environment", saved, info.Mode(), err)
	}
	before := h.list()
	for _, r := range before {
		h.kill(r.Supervisor, syscall.SIGKILL)
		h.kill(r.PID, syscall.SIGKILL)
		h.gone(r.PID)
	}
	if rows := h.list(); len(rows) != 0 {
		t.Fatalf("%+v", rows)
	}
	out := h.ok("evermore", "resurrect")
	if !strings.Contains(out, "started process: a") || !strings.Contains(out, "started process: b") {
		t.Errorf("resurrect says:\n%s", out)
	}
	for _, uid := range []string{"a", "b"} {
		r := h.app(uid)
		if r.Status != "running" || !h.lives(r.PID) {
			t.Errorf("%+v", r)
		}
		h.awaitText(uid+".sh.txt", `^(yes it is\|arg of `+uid+` \$x\n){2}$`)
	}
	// What runs is left alone.
	h.ok("evermore", "stop", "b")
	a := h.app("a")
	h.ok("evermore", "resurrect")
	if r := h.app("a"); r.PID != a.PID || len(h.list()) != 2 {
		t.Errorf("%+v after %+v", h.list(), a)
	}
	h.ok("evermore", "stopall")
	h.isEmpty()
}

func TestStartup(t *testing.T) {
	t.Parallel()
	needs(t, "systemd-analyze")
	h := newHost(t)
	odd := []string{"a b", `quo"te`, "it's", "$HOME ${x} %n %%", `back\slash`, "tab\there", "new\nline", "ключ", "", ";", "-x"}
	h.file("odd.sh", `printf '%s\0' "$@" "$ODD" > odd.args; exec sleep 100000`+"\n")
	argv := append([]string{"evermore", "start", "--uid", "odd", "--kill-timeout", "5s", "-c", "sh", "odd.sh"}, odd...)
	variable := "$x %i \"q\" 'p' \\ ;\n next"
	if r := h.runWith([]string{"ODD=" + variable, "SECRET=s"}, argv...); r.code != 0 {
		t.Fatal(r)
	}
	want := strings.Join(append(slices.Clone(odd), variable), "\x00") + "\x00"
	eventually(t, "the app has its arguments", func() bool { return h.text("odd.args") == want })
	unit := ""
	h.start("plain", sleeper)
	for _, user := range []bool{false, true} {
		argv := []string{"evermore", "startup"}
		verify := []string{"systemd-analyze", "verify", "--man=no", "--recursive-errors=no"}
		if user {
			argv, verify = append(argv, "--user"), append([]string{"env", "XDG_RUNTIME_DIR=" + h.dir}, append(verify, "--user")...)
		}
		out := h.ok(argv...)
		units := regexp.MustCompile(`(?m)^# (/\S+/(evermore-\w+\.service))\n`).FindAllStringSubmatchIndex(out, -1)
		if len(units) != 2 {
			t.Fatalf("%q says:\n%s", argv, out)
		}
		for i, at := range units {
			end := len(out)
			if i+1 < len(units) {
				end = units[i+1][0]
			}
			path := h.file(out[at[4]:at[5]], out[at[1]:end])
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			if r := h.run(append(slices.Clone(verify), path)...); r.code != 0 || r.out+r.err != "" {
				t.Errorf("%v\n%s", r, out[at[1]:end])
			}
		}
		for _, line := range []string{"Type=notify\n", "Restart=on-failure\n", "NoNewPrivileges=yes\n"} {
			if !strings.Contains(out, line) {
				t.Errorf("%q lacks %q:\n%s", argv, line, out)
			}
		}
		unit = out[units[0][1]:units[1][0]]
	}
	if out := h.ok("evermore", "startup", "plain"); strings.Count(out, "[Unit]") != 1 {
		t.Errorf("startup plain:\n%s", out)
	}
	h.fails(1, "cannot find process with id: nobody", "evermore", "startup", "nobody")
	h.ok("evermore", "startup", "--user", "--write")
	for _, name := range []string{"evermore-odd.service", "evermore-plain.service"} {
		path := filepath.Join(h.root, "../home/.config/systemd/user", name)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v: it holds the environment", path, info, err)
		}
	}
	h.ok("evermore", "stopall")
	h.fails(1, "no evermore processes running", "evermore", "startup")

	// The unit makes of it what runs: as a systemd would do it.
	if err := os.Remove(h.path("odd.args")); err != nil {
		t.Fatal(err)
	}
	notify := h.path("notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: notify})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(os.Chmod(notify, 0o777), socket.SetReadDeadline(time.Now().Add(patience))); err != nil {
		t.Fatal(err)
	}
	service := []string{"env", "-i", "NOTIFY_SOCKET=" + notify}
	var command []string
	for line := range strings.Lines(unit) {
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "="); key {
		case "Environment":
			service = append(service, systemdWords(t, value, false)...)
		case "ExecStart":
			command = systemdWords(t, value, true)
		}
	}
	h.follow("unit.txt", append(service, command...)...)
	state := make([]byte, 100)
	n, err := socket.Read(state)
	if err != nil || string(state[:n]) != "READY=1" {
		t.Errorf("it notifies %q, %v; its output: %s", state[:n], err, h.log("odd"))
	}
	eventually(t, "the app has its arguments", func() bool { return h.text("odd.args") == want })
	if r := h.app("odd"); r.Status != "running" {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "stop", "odd")
	h.isEmpty()
}

// systemdWords reads quoted words as systemd.syntax(7) and, in a command,
// systemd.service(5) say.
func systemdWords(t *testing.T, text string, command bool) []string {
	t.Helper()
	var words []string
	for _, m := range regexp.MustCompile(`"((?:[^"\\]|\\.)*)"( |$)`).FindAllStringSubmatch(text, -1) {
		word, err := strconv.Unquote(`"` + m[1] + `"`) // \n, \t, \xff, \" and \\ are the same in Go
		if err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		word = strings.ReplaceAll(word, "%%", "%")
		if command {
			word = strings.ReplaceAll(word, "$$", "$")
		}
		words = append(words, word)
	}
	return words
}
