package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"evermore/bench/load"
)

// watched starts an app that is watched in a folder of its own, and gives the
// folder. It waits until what changes there is seen.
func (h *host) watched(uid string, options ...string) string {
	h.t.Helper()
	dir := "watched-" + uid
	h.file(dir+"/app.sh", "trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done\n")
	h.ok(append(append([]string{"evermore", "start", "--uid", uid, "-w", "-c", "sh"}, options...), dir+"/app.sh")...)
	h.awaitLog(uid, "up\n")
	n := 0
	if !poll(func() bool {
		n++
		h.file(dir+"/probe", strconv.Itoa(n))
		return h.reactions(uid) > 0
	}) {
		h.t.Fatalf("%s reacts to no change; its log:\n%s", uid, h.log(uid))
	}
	h.settle(uid, dir)
	return dir
}

// settle lets what has changed have its effect: a change that is made now is the
// only one that the next reaction is about.
func (h *host) settle(uid, dir string) {
	h.t.Helper()
	// A change of a file of its own names it, so that it can be told from others.
	h.file(dir+"/settled", "")
	name := "settled"
	for n := 0; ; n++ {
		before := h.reactions(uid)
		h.file(filepath.Join(dir, name), strconv.Itoa(n))
		eventually(h.t, "a reaction", func() bool { return h.reactions(uid) > before })
		if strings.HasSuffix(strings.TrimSpace(h.lastChange(uid)), "/"+name+" changed") || !strings.Contains(h.log(uid), "changed") {
			return
		}
	}
}

// reactions counts what changes have done: restarts, or signals.
func (h *host) reactions(uid string) int {
	return strings.Count(h.log(uid), " changed") + strings.Count(h.log(uid), "hup\n")
}

// lastChange is the last line of the log about a change.
func (h *host) lastChange(uid string) string {
	last := ""
	for line := range strings.Lines(h.log(uid)) {
		if strings.Contains(line, " changed") {
			last = line
		}
	}
	return last
}

// ignores makes changes that do not count and then one that does, in this order:
// the reaction is to the last one alone.
func (h *host) ignores(uid, dir string, names ...string) {
	h.t.Helper()
	before := h.reactions(uid)
	for _, name := range names {
		h.file(filepath.Join(dir, name), "changed")
	}
	// Were they seen, they would be the first of the burst.
	h.file(dir+"/seen", strconv.Itoa(before))
	eventually(h.t, "the reaction to what counts", func() bool { return h.reactions(uid) > before })
	for _, name := range names {
		if line := h.lastChange(uid); strings.Contains(line, name) || strings.Contains(line, " more\n") {
			h.t.Errorf("%s reacts to %s: %s", uid, name, line)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	h := newHost(t)

	// One restart for many changes, which says so.
	h.file("watched-burst/node_modules/x/index.js", "")
	h.file("watched-burst/.git/index", "")
	h.file("watched-burst/.foreverignore", "*.tmp\n# a comment\nbuild/\n")
	h.file("watched-burst/build/a.js", "")
	dir := h.watched("burst", "-o", h.path("watched-burst/out.log"), "--watch-ignore", "*.swp")
	before, restarts := h.reactions("burst"), h.app("burst").Restarts
	if r := h.run("sh", "-c", "mkdir -p "+dir+"/new/deep && for i in 1 2 3 4 5 6 7 8 9; do echo > "+dir+"/new/deep/$i; done"); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, "it is restarted", func() bool { return h.app("burst").Restarts > restarts })
	if got := h.lastChange("burst"); !strings.Contains(got, "/"+dir+"/new") || !strings.HasSuffix(got, " more\n") {
		t.Errorf("the log says: %s", got)
	}
	h.settle("burst", dir)
	if n := h.reactions("burst") - before; n > 3 {
		t.Errorf("ten changes at once had %d effects", n)
	}
	if r := h.app("burst"); r.LastExit == nil || r.LastExit.Reason != "watch" {
		t.Errorf("%+v", r.LastExit)
	}
	h.ignores("burst", dir, "node_modules/x/index.js", ".git/index", ".hidden", "out.log", "x.tmp", "build/a.js", "x.swp")
	// A folder that was added is watched, too.
	h.settle("burst", dir)
	h.file(dir+"/new/deep/1", "again")
	h.awaitLog("burst", `new/deep/1 changed`)

	dir = h.watched("all", "--watch-all")
	for _, name := range []string{"node_modules/x/index.js", ".hidden"} {
		h.file(dir+"/"+name, "new")
		h.settle("all", dir)
	}
	h.file(dir+"/.hidden", "again")
	h.awaitLog("all", `\.hidden changed`)

	dir = h.watched("polled", "--watch-poll", "50ms")
	h.file(dir+"/polled.js", "x")
	h.awaitLog("polled", `polled\.js changed`)
	h.ignores("polled", dir, "node_modules/x/index.js", ".hidden")

	// A signal in place of a restart.
	dir = h.watched("told", "--watch-action", "signal:HUP")
	told := h.app("told")
	before = strings.Count(h.log("told"), "hup\n")
	h.file(dir+"/config", "x")
	eventually(t, "it is told", func() bool { return strings.Count(h.log("told"), "hup\n") > before })
	if r := h.app("told"); r.PID != told.PID || r.Restarts != 0 {
		t.Errorf("%+v after %+v", r, told)
	}

	// A ConfigMap: all of it is swapped by one link (atomic_writer.go of Kubernetes).
	if r := h.run("sh", "-c", "mkdir -p config/..v1 && echo 1 > config/..v1/a && echo 1 > config/..v1/b && cd config && ln -s ..v1 ..data && ln -s ..data/a a && ln -s ..data/b b"); r.code != 0 {
		t.Fatal(r)
	}
	h.watched("mounted", "--watch-directory", "config", "--watch-directory", "watched-mounted")
	h.settle("mounted", "watched-mounted")
	if r := h.run("sh", "-c", "cd config && mkdir ..v2 && echo 2 > ..v2/a && echo 2 > ..v2/b && ln -s ..v2 ..data_tmp && mv -T ..data_tmp ..data && rm -r ..v1"); r.code != 0 {
		t.Fatal(r)
	}
	h.awaitLog("mounted", `config/\.\.data changed`)
	h.settle("mounted", "watched-mounted")
	if n := strings.Count(h.log("mounted"), "config/"); n != 1 {
		t.Errorf("one swap had %d effects:\n%s", n, h.log("mounted"))
	}
	h.ok("evermore", "stopall")
	h.isEmpty()
}

// TestWatchReload deploys by writing files. Nobody who asks meanwhile notices but by
// the answers, and what does not run is not deployed.
func TestWatchReload(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	version := func(name string) {
		h.file("app/server.js", fmt.Sprintf("require('http').createServer((q, r) => q.resume().on('end', () => r.end('%s ' + process.env.COLOR))).listen(%d, '127.0.0.1')\n", name, port))
	}
	version("first")
	h.file("app/vars", "COLOR=blue\n")
	h.ok("evermore", "start", "--uid", "web", "--hold", address, "-w", "--watch-action", "reload", "--env-file", "app/vars", "app/server.js")
	served := func(want string) {
		t.Helper()
		eventually(t, want+" is served", func() bool { text, err := ask(port, "/"); return err == nil && text == want })
	}
	served("first blue")
	settled := func() {
		t.Helper()
		eventually(t, "no reload is under way", func() bool {
			log := h.log("web")
			return strings.Count(log, "reloading script") == len(reloadEnd.FindAllString(log, -1))
		})
	}
	n := 0
	eventually(t, "changes are seen", func() bool {
		n++
		h.file("app/probe", strconv.Itoa(n))
		return strings.Contains(h.log("web"), "reloading script because")
	})
	settled()

	run := load.Load{
		Address: address, Kept: 2, Fresh: 2, Requests: []load.Request{{Path: "/"}, {Path: "/", Body: 100_000}},
		Pause: 5 * time.Millisecond, Timeout: patience,
	}.Start()
	defer run.End()
	version("second")
	served("second blue")
	settled()

	pid := h.app("web").PID
	h.file("app/server.js", "throw new Error('bad deploy')\n")
	h.awaitLog("web", `rolled the reload of script back.*the new process ended before it was ready: code 1`)
	settled()
	served("second blue")
	if a := h.app("web"); a.PID != pid || a.Status != "running" {
		t.Errorf("%+v, want process %d", a, pid)
	}

	// The variables are read afresh, too.
	h.file("app/vars", "COLOR=green\n")
	version("third")
	served("third green")
	settled()

	result := run.End()
	t.Log(result)
	if result.Failed() > 0 || result.By["first blue"] == 0 || result.By["second blue"] == 0 {
		t.Errorf("answers: %v; of the requests that failed: %v", result.By, result.Failures[:min(result.Failed(), 5)])
	}
	h.ok("evermore", "stop", "web")
	h.isEmpty()
}

// reloadEnd is how the log tells of a reload's end.
var reloadEnd = regexp.MustCompile(`reloaded script in|rolled the reload of script back|could not reload script|refused to reload script`)

// TestContainerCommands works on evermore in a container from beside it, as
// kubectl exec does.
func TestContainerCommands(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	h.init.kill() // evermore takes its place
	h.file("app.js", "console.log('up', process.pid); process.on('SIGUSR2', () => console.log('usr2')); setInterval(() => {}, 1e6);\n")
	h.init = launch(t, h.init.place, h.dir, filepath.Join(h.dir, "pid1"), append(h.env, "EVERMORE_HTTP=off"), "evermore", "--", "node", "app.js")
	h.awaitText("pid1.out", "up \\d+\n")
	eventually(t, "it is on record", func() bool { return len(h.list()) == 1 })
	a := h.list()[0]
	if a.Supervisor != 1 || !h.lives(a.PID) {
		t.Errorf("%+v", a)
	}
	if out := h.ok("evermore", "list"); !strings.Contains(out, "node app.js") {
		t.Errorf("list:\n%s", out)
	}
	events := h.follow("events.txt", "evermore", "events")
	h.ok("evermore", "signal", "USR2", "0")
	h.awaitText("pid1.out", "usr2\n")
	// There is nothing that tells that events are listened to but an event.
	restarts := 0
	eventually(t, "events come", func() bool {
		h.ok("evermore", "restart")
		restarts++
		return h.text(events) != ""
	})
	b := h.list()[0]
	if b.PID == a.PID || b.Restarts != restarts || b.Supervisor != 1 {
		t.Errorf("%+v after %+v", b, a)
	}
	h.awaitText("pid1.out", "up \\d+\n(?s:.*)up "+strconv.Itoa(b.PID)+"\n")
	h.awaitText("events.txt", `"event":"exited"(?s:.*)"event":"restarting"`)
	// Its output is the container's log: there is no file to read.
	r := h.run("evermore", "logs", "0")
	if r.code == 0 || !strings.Contains(r.err, "its output is where it was started") {
		t.Errorf("logs: %v", r)
	}
	h.fails(1, "(?i)belongs to|no supervisor|cannot adopt", "evermore", "adopt", "0")
	stop := h.command("evermore", "stop", "0")
	// It may be killed with its pid namespace before it can say that it is done.
	_ = stop.Run()
	h.init.end(t, 143)
}
