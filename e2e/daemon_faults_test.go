package e2e

import (
	"fmt"
	"io"
	"net/http"
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

// server is an app that answers over HTTP with its pid, and ends with code 5 when
// it is asked for /die.
const server = `
const http = require('http');
http.createServer((q, r) => {
  r.end(String(process.pid));
  if (q.url === '/die') setImmediate(() => process.exit(5));
}).listen(Number(process.env.APP_PORT), '127.0.0.1', () => console.log('listening'));
`

func ask(port int, path string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// serve starts a node app on a free port, and waits until it answers.
func (h *host) serve(uid string, options ...string) (row, int) {
	h.t.Helper()
	needs(h.t, "node")
	port, err := freePort()
	if err != nil {
		h.t.Fatal(err)
	}
	h.file(uid+".js", server)
	a := h.runWith([]string{"APP_PORT=" + strconv.Itoa(port)}, slices.Concat([]string{"evermore", "start", "--uid", uid}, options, []string{uid + ".js"})...)
	if a.code != 0 {
		h.t.Fatal(a)
	}
	eventually(h.t, uid+" answers", func() bool { _, err := ask(port, "/"); return err == nil })
	return h.app(uid), port
}

// asking asks an app all the time until it is ended, and gives how often it
// answered; an answer by another process, or none, fails the test.
func asking(t *testing.T, port, pid int) (end func() int) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	count := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if text, err := ask(port, "/"); err != nil || text != strconv.Itoa(pid) {
				t.Errorf("the app was interrupted: %q, %v", text, err)
				return
			}
			count++
		}
	}()
	return func() int {
		close(stop)
		<-done
		return count
	}
}

func TestFrozenSupervisor(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", sleeper)
	b := h.start("b", sleeper)
	h.kill(a.Supervisor, syscall.SIGSTOP)

	if r := h.app("a"); r.Status != "unresponsive" || r.Supervisor != a.Supervisor {
		t.Errorf("the frozen one: %+v", r)
	}
	if r := h.app("b"); r.Status != "running" || r.PID != b.PID {
		t.Errorf("the other one: %+v", r)
	}
	for line := range strings.Lines(h.ok("evermore", "list")) {
		if strings.Contains(line, " a ") && !strings.Contains(line, "UNRESPONSIVE") {
			t.Errorf("list says of the frozen one: %s", line)
		}
	}
	start := time.Now()
	h.ok("evermore", "list")
	t.Logf("list with a frozen supervisor took %s", time.Since(start).Round(time.Millisecond))
	said := fmt.Sprintf(`supervisor %d does not answer.*kill -CONT %d`, a.Supervisor, a.Supervisor)
	if out := h.ok("evermore", "logs", "a"); !strings.Contains(out, "up ") { // it is in a file
		t.Errorf("logs:\n%s", out)
	}
	h.fails(1, said, "evermore", "stop", "a")
	h.fails(1, said, "evermore", "restart", "a")
	h.fails(1, said, "evermore", "signal", "USR2", "a")
	h.fails(1, said, "evermore", "events", "a")
	h.fails(1, said, "evermore", "save")
	h.fails(1, "(?i)adopt", "evermore", "adopt", "a")
	h.fails(255, "uid a is taken", "evermore", "start", "--uid", "a", "-c", "sh", "a.sh")
	h.fails(1, said, "evermore", "start", "--replace", "--uid", "a", "-c", "sh", "a.sh")
	// The others are not kept from it.
	r := h.fails(1, said, "evermore", "restartall")
	if !strings.Contains(r.out, "restarted processes") || h.app("b").PID == b.PID {
		t.Errorf("b was not restarted: %v", r)
	}

	h.kill(a.Supervisor, syscall.SIGCONT)
	if r := h.app("a"); r.Status != "running" || r.PID != a.PID {
		t.Errorf("the thawed one: %+v, want pid %d", r, a.PID)
	}
	h.ok("evermore", "restart", "a")
	h.ok("evermore", "stopall")
	h.isEmpty()
}

func TestKilledSupervisor(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, port := h.serve("a", "--pid-file", h.path("a.pid"), "--min-uptime", "0")
	end := asking(t, port, a.PID)
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.gone(a.Supervisor)
	lost := h.app("a")
	if lost.Status != "unsupervised" || lost.PID != a.PID {
		t.Fatalf("after kill -9: %+v", lost)
	}
	if out := h.ok("evermore", "list"); !strings.Contains(out, "UNSUPERVISED") {
		t.Errorf("list:\n%s", out)
	}
	h.ok("evermore", "logs", "a")
	h.fails(1, "no supervisor", "evermore", "events", "a")
	h.fails(255, "uid a is taken", "evermore", "start", "--uid", "a", "a.js")

	out := h.ok("evermore", "adopt")
	if !strings.Contains(out, "adopted") {
		t.Errorf("adopt says:\n%s", out)
	}
	adopted := h.app("a")
	if adopted.Status != "running" || adopted.PID != a.PID || adopted.Supervisor == a.Supervisor {
		t.Fatalf("after adopt: %+v", adopted)
	}
	if pid := h.text("a.pid"); pid != strconv.Itoa(a.PID) {
		t.Errorf("its pid file has %q", pid)
	}
	h.fails(1, "cannot adopt a", "evermore", "adopt", "a")
	if out := h.ok("evermore", "adopt"); !strings.Contains(out, "No evermore processes without a supervisor") {
		t.Errorf("adopt says:\n%s", out)
	}
	eventually(t, "it answers a few times more", func() bool { _, err := ask(port, "/"); return err == nil })
	if n := end(); n == 0 {
		t.Error("nobody asked the app meanwhile")
	}

	// What was adopted is as any other.
	if _, err := ask(port, "/die"); err != nil {
		t.Error(err)
	}
	b := h.await("a", "was restarted after its death", func(r row) bool { return r.PID != 0 && r.PID != a.PID })
	if b.LastExit == nil || b.Restarts != 1 {
		t.Fatalf("after its death: %+v", b)
	}
	if b.LastExit.Code == nil {
		t.Log("the exit code of an adopted app is unknown here")
		if !strings.Contains(h.log("a"), "unknown") {
			t.Errorf("the log does not say so:\n%s", h.log("a"))
		}
	} else if *b.LastExit.Code != 5 {
		t.Errorf("it ended with %d, not 5", *b.LastExit.Code)
	}
	eventually(t, "it answers again", func() bool { _, err := ask(port, "/"); return err == nil })
	if got, _ := ask(port, "/"); got != strconv.Itoa(b.PID) {
		t.Errorf("%q answers, not %d", got, b.PID)
	}
	if strings.Count(h.log("a"), "listening") != 2 {
		t.Errorf("the log:\n%s", h.log("a"))
	}
	h.ok("evermore", "restart", "a")
	h.ok("evermore", "stop", "a")
	h.isEmpty()
	if exists(h.path("a.pid")) {
		t.Error("its pid file is left")
	}
}

// stop and restart need no adopt before them.
func TestKilledSupervisorCommands(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	tree := "setsid sh -c 'echo $$ > $0.far; exec sleep 100000' $0 & echo up; while :; do sleep 100000; done\n"
	for _, c := range []struct {
		name string
		argv []string
		runs bool
	}{
		{"stopped", []string{"evermore", "stop", "stopped"}, false},
		{"restarted", []string{"evermore", "restart", "restarted"}, true},
		{"replaced", []string{"evermore", "start", "--replace", "--uid", "replaced", "-c", "sh", "replaced.sh"}, true},
	} {
		a := h.start(c.name, tree)
		h.awaitText(c.name+".sh.far", `^\d+\n$`)
		far, _ := strconv.Atoi(strings.TrimSpace(h.text(c.name + ".sh.far")))
		h.kill(a.Supervisor, syscall.SIGKILL)
		h.gone(a.Supervisor)
		h.ok(c.argv...)
		if h.lives(a.PID) || h.lives(far) {
			t.Errorf("%s: of %d and its descendant %d something lives", c.name, a.PID, far)
		}
		r := h.find(c.name)
		if runs := r != nil && r.Status == "running" && h.lives(r.PID); runs != c.runs {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	h.ok("evermore", "stopall")
	h.isEmpty()

	// With the supervisor and the app, everything is gone.
	a := h.start("both", sleeper)
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.kill(a.PID, syscall.SIGKILL)
	h.gone(a.Supervisor)
	h.gone(a.PID)
	if out := h.ok("evermore", "list"); !strings.Contains(out, "No evermore processes running") {
		t.Errorf("list:\n%s", out)
	}
	h.isEmpty()

	// A process that has the pid of the app now is not the app.
	a = h.start("reused", sleeper)
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.gone(a.Supervisor)
	records, _ := filepath.Glob(filepath.Join(h.root, "run", "*.json"))
	if len(records) != 1 {
		t.Fatalf("these are on record: %q", records)
	}
	record := h.text(records[0])
	changed := regexp.MustCompile(`("child":\{"pid":\d+,"start_time":)\d+`).ReplaceAllString(record, "${1}12345")
	if changed == record {
		t.Fatalf("the record has no child: %s", record)
	}
	// By its start time alone it would still be found: it is marked.
	changed = regexp.MustCompile(`"mark":"[0-9a-f]{16}"`).ReplaceAllString(changed, `"mark":"0123456789abcdef"`)
	if err := os.WriteFile(records[0], []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "cannot find process with id: reused", "evermore", "stop", "reused")
	if !h.lives(a.PID) {
		t.Error("the stranger was killed")
	}
	if r := h.find("reused"); r != nil {
		t.Errorf("the stranger is taken for the app: %+v", r)
	}
}

// An app whose output evermore copies ends with it: otherwise it would write into
// a broken pipe. The other one goes on.
func TestKilledSupervisorWithPipes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, c := range []struct {
		name    string
		options []string
		piped   bool
	}{
		{"stamped", []string{"--timestamps"}, true},
		{"both", []string{"-o", "both.out"}, true},
		{"each", []string{"-s", "-o", "each.out", "-e", "each.err"}, false},
	} {
		a := h.start(c.name, sleeper, c.options...)
		h.kill(a.Supervisor, syscall.SIGKILL)
		h.gone(a.Supervisor)
		if c.piped {
			h.gone(a.PID)
			if r := h.find(c.name); r != nil {
				t.Errorf("%s: %+v", c.name, r)
			}
		} else if r := h.find(c.name); r == nil || r.Status != "unsupervised" || r.PID != a.PID {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// What lies in evermore's folder can be deleted, and what is no record is none.
func TestDamagedRoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", sleeper)
	sockets, _ := filepath.Glob(filepath.Join(h.root, "sock", "*"))
	if len(sockets) != 1 {
		t.Fatalf("these are the sockets: %q", sockets)
	}
	for _, path := range []string{sockets[0], filepath.Join(h.root, "sock")} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if r := h.app("a"); r.Status != "running" || r.PID == 0 {
			t.Errorf("without %s: %+v", path, r)
		}
		h.ok("evermore", "restart", "a")
		h.ok("evermore", "logs", "a")
	}
	b := h.start("b", sleeper) // it makes the folder anew
	run := filepath.Join(h.root, "run")
	for name, text := range map[string]string{
		"x.json": "", "y.json": "{}", "z.json": "\x00\xff not JSON", "half.json": `{"pid": 1`,
		"vm.1.1.1.json": `{"pid": 1, "start_time": 1, "host": "vm"}`, "big.json": strings.Repeat("[", 1<<20), "plain": "text",
	} {
		h.file(filepath.Join(run, name), text)
	}
	for _, dir := range []string{"dir.json", "b.lock.json"} {
		if err := os.Mkdir(filepath.Join(run, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(run, "zero.json")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(run, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.file(filepath.Join(h.root, "sock", "garbage.sock"), "no socket")
	if rows := h.list(); len(rows) != 2 || rows[0].UID != "a" || rows[1].UID != "b" {
		t.Errorf("list: %+v", rows)
	}
	// A record that is gone cannot be found; the app goes on, and its uid is taken.
	for _, name := range []string{"config.json", "saved.json"} {
		h.file(filepath.Join(h.root, name), "garbage")
	}
	if r := h.run("evermore", "list"); r.code != 0 || !strings.Contains(r.err, "config.json") {
		t.Errorf("with a broken configuration: %v", r)
	}
	h.fails(1, "saved.json", "evermore", "resurrect")
	h.ok("evermore", "stopall")
	if h.lives(a.Supervisor) || h.lives(b.Supervisor) || h.lives(b.PID) {
		t.Error("something lives")
	}

	// The whole folder can go.
	c := h.start("c", "echo $$ > c.pid; "+sleeper, "-a", "--min-uptime", "0")
	if err := os.RemoveAll(h.root); err != nil {
		t.Fatal(err)
	}
	if !h.lives(c.PID) {
		t.Error("it died with evermore's folder")
	}
	h.awaitText("c.pid", strconv.Itoa(c.PID))
	h.kill(c.PID, syscall.SIGKILL)
	eventually(t, "it is restarted", func() bool {
		pid, err := strconv.Atoi(strings.TrimSpace(h.text("c.pid")))
		return err == nil && pid != c.PID && h.lives(pid)
	})
}

func TestStopNeverHangs(t *testing.T) {
	t.Parallel()
	h := newHost(t)

	// In a pause before a restart, there is nothing to wait for.
	h.start("pausing", "exit 3\n", "--spin-sleep-time", "1h")
	h.await("pausing", "pauses", func(r row) bool { return r.State == "backoff" })
	if r := h.app("pausing"); r.Status != "running" || r.LastExit == nil || *r.LastExit.Code != 3 {
		t.Errorf("in the pause: %+v", r)
	}
	h.ok("evermore", "restart", "pausing") // cuts it short
	h.await("pausing", "pauses again", func(r row) bool { return r.State == "backoff" && r.Restarts == 1 })
	h.ok("evermore", "stop", "pausing")
	h.isEmpty()

	// One that ignores the signal is killed in time, and its far descendants with it.
	a := h.start("deaf", "trap '' TERM; echo $$ > deaf.pid; setsid sh -c 'trap \"\" TERM; echo $$ > far.pid; while :; do sleep 1000; done' & while :; do sleep 1000; done\n", "--kill-timeout", "300ms")
	h.awaitText("deaf.pid", `\d\n`)
	h.awaitText("far.pid", `\d\n`)
	far, _ := strconv.Atoi(strings.TrimSpace(h.text("far.pid")))
	h.ok("evermore", "stop", "deaf")
	if h.lives(a.PID) || h.lives(far) || h.lives(a.Supervisor) {
		t.Error("something lives when stop is over")
	}
	h.isEmpty()

	// What has ended by itself is remembered, restarted and stopped without a fuss.
	h.start("ended", "exit 7\n")
	r := h.await("ended", "has ended", func(r row) bool { return r.Status == "stopped" })
	if r.Ended == nil || r.Ended.Code != 7 || h.lives(r.Supervisor) {
		t.Errorf("it ended: %+v", r)
	}
	if out := h.ok("evermore", "list"); !strings.Contains(out, "STOPPED") {
		t.Errorf("list:\n%s", out)
	}
	h.file("ended.sh", sleeper)
	h.ok("evermore", "restart", "ended")
	if r := h.app("ended"); r.Status != "running" || !h.lives(r.PID) {
		t.Errorf("after restart: %+v", r)
	}
	h.ok("evermore", "stop", "ended")
	h.file("ended.sh", "exit 7\n")
	h.ok("evermore", "start", "-a", "--uid", "ended", "-c", "sh", "ended.sh")
	h.await("ended", "has ended again", func(r row) bool { return r.Status == "stopped" })
	h.ok("evermore", "stop", "ended")
	h.isEmpty()

	// A stop is stronger than the restart that runs.
	h.start("slow", "trap 'echo asked >> slow.txt' TERM; echo up > slow.up; while :; do sleep 0.05; done\n", "--kill-timeout", "2s")
	h.awaitText("slow.up", "up")
	restart := make(chan answer, 1)
	go func() { restart <- h.run("evermore", "restart", "slow") }()
	h.awaitText("slow.txt", "asked")
	h.ok("evermore", "stop", "slow")
	if r := <-restart; r.code == 0 {
		t.Errorf("the restart that was overtaken by a stop says that it did it: %v", r)
	}
	h.isEmpty()

	// Restarts at once are one or more, but all are done when they are over.
	b := h.start("many", "trap 'sleep 0.2; exit' TERM; echo $$ >> many.pids; while :; do sleep 0.02; done\n")
	h.awaitText("many.pids", `\d\n`)
	const restarters = 4
	results := make(chan answer, restarters)
	for range restarters {
		go func() { results <- h.run("evermore", "restart", "many") }()
	}
	for range restarters {
		if r := <-results; r.code != 0 {
			t.Errorf("a restart at once with others: %v", r)
		}
	}
	c := h.app("many")
	if c.Supervisor != b.Supervisor || c.PID == b.PID || !h.lives(c.PID) || c.Restarts < 1 || c.Restarts > restarters {
		t.Errorf("%+v after %+v", c, b)
	}
	t.Logf("%d restarts at once were %d", restarters, c.Restarts)
	stops := make(chan answer, 2)
	for range 2 {
		go func() { stops <- h.run("evermore", "stop", "many") }()
	}
	for range 2 {
		if r := <-stops; r.code != 0 && !strings.Contains(r.err, "cannot find process") {
			t.Errorf("one of two stops at once: %v", r)
		}
	}
	h.isEmpty()
}
