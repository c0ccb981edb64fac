package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// follow runs a command in the background until the test ends and gives the path
// of its output.
func (h *host) follow(name string, argv ...string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	cmd := h.command(argv...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		h.init.kill() // the command is in there
		_ = cmd.Wait()
	})
	return path
}

func TestLogs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	text := `echo one; echo; echo '==> three <=='; printf '\377\000four\n'; head -c 65536 /dev/zero | tr '\0' x; echo; head -c 200000 /dev/zero | tr '\0' y; echo; echo to stderr >&2; printf last; exec sleep 100000` + "\n"
	a := h.start("a", text, "-o", h.path("a.out"), "-e", h.path("a.err"), "--id", "name")
	want := "one\n\n==> three <==\n\xff\x00four\n" + strings.Repeat("x", 65536) + "\n" + strings.Repeat("y", 200000) + "\n"
	eventually(t, "all is written", func() bool {
		return h.text("a.out") == want+"last" && strings.Contains(h.log("a"), "to stderr\n") && strings.HasSuffix(strings.ReplaceAll(h.log("a"), "to stderr\n", ""), "last")
	})
	head := "data:    a.sh:" + strconv.Itoa(a.PID) + " - "
	var lines strings.Builder
	for line := range strings.Lines(want + "last\n") {
		lines.WriteString(head + line)
	}
	for _, target := range []string{"a", "name", "0", "a.sh", h.path("a.sh"), strconv.Itoa(a.PID), strconv.Itoa(a.Supervisor)} {
		if got := h.ok("evermore", "logs", "--out", target); got != lines.String() {
			t.Errorf("logs --out %s has %d bytes, want %d: %.300q", target, len(got), lines.Len(), got)
		}
	}
	if got := h.ok("evermore", "logs", "--err", "a"); got != head+"to stderr\n" {
		t.Errorf("logs --err: %q", got)
	}
	if got := h.ok("evermore", "logs", "--out", "--err", "-n", "1", "a"); !strings.Contains(got, head+"last\n") || !strings.Contains(got, head+"to stderr\n") {
		t.Errorf("logs --out --err -n 1: %.300q", got)
	}
	if got := h.ok("evermore", "logs", "--out", "-n", "2", "a"); got != head+strings.Repeat("y", 200000)+"\n"+head+"last\n" {
		t.Errorf("logs -n 2 has %d bytes", len(got))
	}
	if got := h.ok("evermore", "logs", "--out", "-n", "0", "a"); got != "" {
		t.Errorf("logs -n 0: %q", got)
	}
	h.ok("evermore", "set", "loglength", "1")
	if got := h.ok("evermore", "logs", "--out", "a"); got != head+"last\n" {
		t.Errorf("logs with a loglength of 1: %.300q", got)
	}
	h.fails(1, "No logs available for process: nobody", "evermore", "logs", "nobody")
	h.fails(2, `cannot read "x"`, "evermore", "logs", "-n", "x", "a")
	if got := h.ok("evermore", "logs"); !strings.Contains(got, a.LogFile) {
		t.Errorf("logs without a target:\n%s", got)
	}
	b := h.start("b", sleeper, "-s")
	h.fails(1, "b has no such log file", "evermore", "logs", "--out", "b")
	if err := os.Remove(b.LogFile); err != nil {
		t.Fatal(err)
	}
	if r := h.run("evermore", "logs", "b"); r.code == 0 || !strings.Contains(r.err, b.LogFile) {
		t.Errorf("logs of a deleted file: %v", r)
	}
}

// The app writes what it is given, so that each line comes when the log is as the
// test wants it.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", "echo up; while :; do if [ -e say ]; then mv say said; cat said; fi; sleep 0.02; done\n")
	h.awaitLog("a", "up\n")
	say := func(text string) {
		t.Helper()
		h.file("say.new", text)
		eventually(t, "the app is ready to write", func() bool { return !exists(h.path("say")) })
		if err := os.Rename(h.path("say.new"), h.path("say")); err != nil {
			t.Fatal(err)
		}
	}
	head := regexp.QuoteMeta("data:    a.sh:" + strconv.Itoa(a.PID) + " - ")
	out := h.follow("follow.txt", "evermore", "logs", "-f", "-n", "1", "a")
	want := head + "up\n"
	h.awaitText(out, "^"+want+"$")
	expect := func(line string) {
		t.Helper()
		say(line + "\n")
		want += head + line + "\n"
		h.awaitText(out, "^"+want+"$")
	}
	expect("first")
	if err := os.Truncate(a.LogFile, 0); err != nil {
		t.Fatal(err)
	}
	expect("truncated")
	expect("again")

	// logrotate's "create": the old file is renamed, and the app still writes there
	// until it is restarted.
	if err := os.Rename(a.LogFile, a.LogFile+".1"); err != nil {
		t.Fatal(err)
	}
	h.ok("evermore", "restart", "a")
	h.awaitText(a.LogFile, "up\n")
	say("renamed\n")
	h.awaitText(out, head+"renamed\n$")

	if strings.Count(h.text(out), "first\n") != 1 || strings.Count(h.text(out), "truncated\n") != 1 || strings.Count(h.text(out), "renamed\n") != 1 {
		t.Errorf("lines were lost or doubled:\n%s", h.text(out))
	}
}

func TestLogRotation(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// 200 KB in lines that can be told apart, slowly enough for a look in between.
	script := "i=0; while [ $i -lt 2000 ]; do echo \"line $i $(printf %090d $i)\"; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.1; done; touch $0.done; exec sleep 100000\n"
	for _, c := range []struct {
		name    string
		options []string
	}{
		{"direct", nil}, // the app writes to the file itself
		{"piped", []string{"--timestamps"}},
		{"gzip", []string{"--timestamps", "--log-compress"}},
		{"gzipdirect", []string{"--log-compress"}},
	} {
		h.start(c.name, script, append(c.options, "-s", "-o", h.path(c.name+".txt"), "--log-max-size", "50K", "--log-max-files", "2")...)
	}
	for _, c := range []string{"direct", "piped", "gzip", "gzipdirect"} {
		eventually(t, c+" has written all", func() bool { return exists(h.path(c + ".sh.done")) })
		end := ".txt"
		if strings.HasPrefix(c, "gzip") {
			end = ".txt.gz"
		}
		var old []string
		if !poll(func() bool {
			old, _ = filepath.Glob(h.path(c + "-*" + end))
			all, _ := filepath.Glob(h.path(c + "-*"))
			return len(old) == 2 && len(all) == 2
		}) {
			all, _ := filepath.Glob(h.path(c + "*"))
			t.Errorf("%s: these are the files: %q", c, all)
			continue
		}
		for _, path := range append(slices.Clone(old), h.path(c+".txt")) {
			if info, err := os.Stat(path); err != nil || info.Size() > 150<<10 {
				t.Errorf("%s: %v, %v", path, info.Size(), err)
			}
		}
		if strings.Contains(h.text(c+".txt"), "\x00") {
			t.Errorf("%s has a hole", c)
		}
	}
	// cleanlogs deletes none of what is in use, and what is not.
	var kept []string
	h.start("a", "while :; do printf '%01000d\n' 1; sleep 0.01; done\n", "--log-max-size", "10K", "--log-max-files", "2")
	eventually(t, "it has rotated", func() bool {
		kept, _ = filepath.Glob(filepath.Join(h.root, "a-*.log"))
		return len(kept) > 0
	})
	h.file(filepath.Join(h.root, "old.log"), "x")
	h.file(filepath.Join(h.root, "other-2020-01-02T15-04-05.000.log"), "x")
	h.file(filepath.Join(h.root, "old.log.gz"), "x")
	h.file(filepath.Join(h.root, "keep.txt"), "x")
	h.ok("evermore", "cleanlogs")
	for name, want := range map[string]bool{
		"old.log": false, "other-2020-01-02T15-04-05.000.log": false, "old.log.gz": false,
		"keep.txt": true, "a.log": true, "pids/a.pid": true, "direct.log": true, "piped.log": true,
	} {
		if exists(filepath.Join(h.root, name)) != want {
			t.Errorf("cleanlogs: %s is there: %t", name, !want)
		}
	}
	if now, _ := filepath.Glob(filepath.Join(h.root, "a-*.log")); len(now) == 0 {
		t.Errorf("cleanlogs deleted the rotated files of a running app: %q", kept)
	}
	h.ok("evermore", "stopall")
	h.ok("evermore", "cleanlogs")
	if left, _ := filepath.Glob(filepath.Join(h.root, "*.log*")); len(left) > 0 {
		t.Errorf("cleanlogs left %q", left)
	}
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", "echo out; echo err >&2; printf 'no end'; "+sleeper, "--timestamps", "-o", h.path("a.out"))
	h.awaitText("a.out", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - out\n`)
	h.awaitLog("a", `(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - err\n`)
	h.kill(a.PID, syscall.SIGKILL)
	h.awaitLog("a", `(?m)^\d{4}-\d\d-\d\dT\S+Z - .*killed by signal: SIGKILL`)
}

// A full disk ends no app and is told where it can be.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if r := h.run("sh", "-c", `mkdir -p "$0" && mount -t tmpfs -o size=1m,mode=700 tmpfs "$0"`, h.root); r.code != 0 {
		lacks(t, "cannot mount a tmpfs: "+r.err)
	}
	a := h.start("a", "echo $$ > a.pid; trap 'echo more >> a.more' USR1; while :; do echo noise; sleep 0.05; done\n", "--min-uptime", "0", "--spin-sleep-time", "10ms")
	h.run("sh", "-c", `cat /dev/zero > "$0/fill"`, h.root)
	h.fails(1, "(?i)no space left on device", "evermore", "start", "--uid", "b", "-c", "sh", "a.sh")
	if r := h.app("a"); r.PID != a.PID || !h.lives(r.PID) {
		t.Errorf("the disk is full: %+v", r)
	}
	h.ok("evermore", "signal", "USR1", "a")
	h.awaitText("a.more", "more")
	// A restart works, by itself and asked for; else it says why.
	h.kill(a.PID, syscall.SIGKILL)
	b := h.await("a", "is restarted by itself", func(r row) bool { return r.PID != 0 && r.PID != a.PID })
	h.ok("evermore", "restart", "a")
	c := h.app("a")
	if c.PID == b.PID || !h.lives(c.PID) {
		t.Errorf("%+v after %+v", c, b)
	}
	h.fails(1, "(?i)no space left on device", "evermore", "save")
	h.fails(1, "(?i)no space left on device", "evermore", "set", "minUptime", "5000")
	h.run("rm", filepath.Join(h.root, "fill"))
	h.ok("evermore", "save")
	h.ok("evermore", "stop", "a")
	if rows := h.list(); len(rows) != 0 {
		t.Errorf("list: %+v", rows)
	}
	h.ok("evermore", "start", "-a", "--uid", "b", "-c", "sh", "a.sh")
	if r := h.app("b"); !h.lives(r.PID) {
		t.Errorf("%+v", r)
	}
}

// A folder that cannot be written is passed over for the next; one that was named
// for this command is refused.
func TestReadOnlyRoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if r := h.run("sh", "-c", `mkdir -p "$0" && mount -t tmpfs -o ro tmpfs "$0"`, h.root); r.code != 0 {
		lacks(t, "cannot mount a tmpfs: "+r.err)
	}
	a := h.start("a", sleeper)
	if strings.HasPrefix(a.LogFile, h.root+"/") || !exists(a.LogFile) || !h.lives(a.PID) {
		t.Errorf("%+v", a)
	}
	h.ok("evermore", "restart", "a")
	h.ok("evermore", "logs", "a")
	h.ok("evermore", "stop", "a")
	r := h.run("evermore", "start", "-p", h.root, "--uid", "b", "-c", "sh", "a.sh")
	if r.code == 0 || !strings.Contains(r.err, "read-only file system") {
		t.Errorf("start -p with a read-only folder: %v", r)
	}
	if rows := h.list(); len(rows) != 0 {
		t.Errorf("list: %+v", rows)
	}
}

// Two users do not see, stop or trust each other's.
func TestTwoUsers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, who can be two users")
	}
	needs(t, "setpriv")
	h := newHost(t)
	a := h.start("a", sleeper)
	theirs := t.TempDir()
	for dir := theirs; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(theirs, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	as := func(root string, argv ...string) answer {
		t.Helper()
		env := []string{"env", "HOME=" + theirs, "EVERMORE_ROOT=" + root, "setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups"}
		return h.run(append(env, argv...)...)
	}
	own := filepath.Join(theirs, "root")
	if r := as(own, "evermore", "start", "--uid", "a", "-c", "sh", "a.sh"); r.code != 0 {
		t.Fatal(r)
	}
	roots := fmt.Sprintf(`"pid": %d,`, a.PID)
	if r := as(own, "evermore", "list", "--json"); strings.Count(r.out, `"uid": "a"`) != 1 || strings.Contains(r.out, roots) {
		t.Errorf("the other user's list: %v", r)
	}
	if len(h.list()) != 1 || h.app("a").PID != a.PID {
		t.Errorf("root's list: %+v", h.list())
	}
	for _, action := range []string{"stop", "restart", "logs", "adopt"} {
		if r := as(own, "evermore", action, strconv.Itoa(a.PID)); r.code == 0 {
			t.Errorf("%s of another user's app: %v", action, r)
		}
	}
	// Root's folder is closed to the other user, and his is none for root.
	if r := as(h.root, "evermore", "list", "--json"); strings.Contains(r.out, roots) {
		t.Errorf("list in root's folder: %v", r)
	}
	if r := as(h.root, "evermore", "stopall"); r.code == 0 && !h.lives(a.PID) {
		t.Errorf("stopall in root's folder: %v", r)
	}
	r := h.runWith([]string{"EVERMORE_ROOT=" + own}, "evermore", "stopall")
	if r.code != 0 {
		t.Errorf("stopall by root in the other user's folder: %v", r)
	}
	if r := as(own, "evermore", "list", "--json"); !strings.Contains(r.out, `"running"`) {
		t.Errorf("root took the other user's folder for his: %v", r)
	}
	for path, mode := range map[string]os.FileMode{h.root: 0o700, filepath.Join(h.root, "run"): 0o700, filepath.Join(h.root, "sock"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has the mode %v, want %v", path, info.Mode().Perm(), mode)
		}
	}
	for _, pattern := range []string{"run/*.json", "sock/*"} {
		files, _ := filepath.Glob(filepath.Join(h.root, pattern))
		for _, file := range files {
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has the mode %v", file, info.Mode().Perm())
			}
		}
	}
}

// TestOddPlaces runs daemons where people and their tools have left them.
func TestOddPlaces(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// A folder that is gone.
	if err := os.Mkdir(h.path("gone"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := h.file("a.sh", sleeper)
	in := func(argv ...string) answer {
		t.Helper()
		return h.run(append([]string{"sh", "-c", `cd gone; rmdir "$0" 2>/dev/null; "$@"; code=$?; mkdir -p "$0"; exit $code`, h.path("gone")}, argv...)...)
	}
	if r := in("evermore", "start", "--uid", "a", "-c", "sh", script); r.code != 0 {
		t.Fatal(r)
	}
	a := h.app("a")
	for _, argv := range [][]string{{"evermore", "list"}, {"evermore", "logs", "a"}, {"evermore", "restart", "a"}, {"evermore", "stop", "a"}} {
		if r := in(argv...); r.code != 0 {
			t.Error(r)
		}
	}
	if h.lives(a.PID) {
		t.Error("it was not stopped")
	}

	// The folder of a running daemon goes away.
	h.file("there/b.sh", sleeper)
	if r := h.run("sh", "-c", "cd there && evermore start --uid b -c sh b.sh"); r.code != 0 {
		t.Fatal(r)
	}
	b := h.app("b")
	if err := os.Rename(h.path("there"), h.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	if r := h.app("b"); r.Status != "running" || r.PID != b.PID {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "logs", "b")
	h.ok("evermore", "stop", "b")

	// Names with everything in them.
	name := "ein Ordner/mit 'ü', \"λ\" & $HOME; `x`/ ключ.sh"
	h.file(name, "echo \"$@\"; exec sleep 100000\n")
	log := h.path("die Logs/süß und lang.log")
	h.ok("evermore", "start", "--uid", "ü-1", "-l", log, "-c", "sh", name, "--a b", "日本語", "")
	c := h.app("ü-1")
	h.awaitText(log, "--a b 日本語 \n")
	for _, target := range []string{"ü-1", name, h.path(name)} {
		h.ok("evermore", "restart", target)
		h.ok("evermore", "logs", target)
	}
	h.kill(c.Supervisor, syscall.SIGKILL)
	h.gone(c.Supervisor)
	h.ok("evermore", "adopt", "ü-1")
	h.ok("evermore", "restart", "ü-1")
	eventually(t, "it has its arguments still", func() bool { return strings.Count(h.text(log), "--a b 日本語 \n") >= 5 })
	h.ok("evermore", "stop", name)
	h.isEmpty()

	// A root whose path is too long for a socket's address.
	long := h.path(strings.Repeat("long/", 30) + "root")
	h.file("d.sh", sleeper)
	for _, argv := range [][]string{{"start", "--uid", "d", "-c", "sh", "d.sh"}, {"restart", "d"}, {"stop", "d"}} {
		if r := h.runWith([]string{"EVERMORE_ROOT=" + long}, append([]string{"evermore"}, argv...)...); r.code != 0 {
			t.Error(r)
		}
	}
	h.isEmpty()
}
