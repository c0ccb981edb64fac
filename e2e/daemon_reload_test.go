package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// socketServer listens where it is told, as each version of it does.
const socketServer = `require('http').createServer((q, r) => r.end('one')).listen(process.env.SOCKET)` + "\n"

// TestDaemonReload replaces the processes of an app, has more and fewer of them, and
// deploys a version that does not run.
func TestDaemonReload(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	h.file("a.js", socketServer)
	if r := h.runWith([]string{"SOCKET=" + h.path("web.sock")}, "evermore", "start", "--uid", "web", "--pid-file", h.path("web.pid"),
		"--hold", "unix:"+h.path("web.sock"), "-i", "2", "a.js"); r.code != 0 {
		t.Fatal(r)
	}
	ready := func(n int) row {
		return h.await("web", strconv.Itoa(n)+" processes are ready", func(r row) bool {
			for _, w := range r.Workers {
				if !w.Ready {
					return false
				}
			}
			return len(r.Workers) == n
		})
	}
	a := ready(2)
	h.ok("evermore", "reload")
	b := ready(2)
	for i, w := range b.Workers {
		if w.PID == a.Workers[i].PID || w.Worker != i || w.Restarts != 1 {
			t.Errorf("worker %d: %+v after %+v", i, w, a.Workers[i])
		}
		h.gone(a.Workers[i].PID)
	}
	h.awaitText("web.pid", `^`+strconv.Itoa(b.Workers[0].PID)+`$`)

	// What does not run changes nothing, and says why.
	h.file("a.js", "throw new Error('bad deploy')\n")
	h.fails(1, `^error: +cannot reload web: supervisor \d+: rolled back: the new process ended before it was ready: code 1\n$`, "evermore", "reload", "web")
	c := ready(2)
	for i, w := range c.Workers {
		if w.PID != b.Workers[i].PID {
			t.Errorf("worker %d: %+v after %+v", i, w, b.Workers[i])
		}
	}
	if got := h.text("web.pid"); got != strconv.Itoa(b.Workers[0].PID) {
		t.Errorf("the pid file has %s, of a process that was rolled back", got)
	}
	h.file("a.js", socketServer)

	h.ok("evermore", "columns", "set", "uid", "pid", "instances")
	h.ok("evermore", "scale", "web", "4")
	d := ready(4)
	if out := h.ok("evermore", "list"); !regexp.MustCompile(`\[0\] web +` + strconv.Itoa(d.PID) + ` +4/4 *\n`).MatchString(out) {
		t.Errorf("list:\n%s", out)
	}
	for _, w := range d.Workers { // each is found by its pid
		h.ok("evermore", "signal", "CONT", strconv.Itoa(w.PID))
	}
	h.ok("evermore", "scale", "1")
	if e := ready(1); e.Workers[0].PID != d.Workers[0].PID {
		t.Errorf("the one that is left: %+v of %+v", e.Workers, d.Workers)
	}
	for _, w := range d.Workers[1:] {
		h.gone(w.PID)
	}

	// Each run that has no end on record was lost, and none that was replaced.
	h.ok("evermore", "scale", "2")
	f := ready(2)
	out := h.ok("evermore", "why", "web", "-n", "20")
	if strings.Contains(out, "lost") || strings.Count(out, " reload ") != 2 {
		t.Errorf("why:\n%s", out)
	}
	h.kill(f.Supervisor, syscall.SIGKILL)
	for _, w := range f.Workers {
		h.kill(w.PID, syscall.SIGKILL)
		h.gone(w.PID)
	}
	h.gone(f.Supervisor)
	out = h.ok("evermore", "why", "web", "-n", "20")
	if strings.Count(out, " lost ") != 2 {
		t.Errorf("why:\n%s", out)
	}
}

// The pid that is on record, and in the pid file, is that of who serves, also where the
// old process was started anew while the next one began.
func TestPidAfterReload(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	h.file("a.js", "require('fs').existsSync('slow') ? setTimeout(listen, 1500) : listen(); function listen() { "+strings.TrimSpace(socketServer)+" }\n")
	if r := h.runWith([]string{"SOCKET=" + h.path("web.sock")}, "evermore", "start", "--uid", "web", "--pid-file", h.path("web.pid"),
		"--hold", "unix:"+h.path("web.sock"), "--min-uptime", "0", "--spin-sleep-time", "1", "a.js"); r.code != 0 {
		t.Fatal(r)
	}
	is := func(r row) bool { return len(r.Workers) > 0 && r.Workers[0].Ready }
	old := h.await("web", "is ready", is).PID
	h.file("slow", "")
	reload := h.command("evermore", "reload", "web")
	if err := reload.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next process begins", func() bool { return h.text("web.pid") != strconv.Itoa(old) })
	h.kill(old, syscall.SIGKILL)
	if err := reload.Wait(); err != nil {
		t.Fatal(err)
	}
	now := h.await("web", "is ready", is)
	h.awaitText("web.pid", `^`+strconv.Itoa(now.PID)+`$`)
	h.kill(now.Supervisor, syscall.SIGKILL)
	h.gone(now.Supervisor)
	if lost := h.app("web"); lost.PID != now.PID {
		t.Errorf("on record is %d, and %d served", lost.PID, now.PID)
	}
	h.ok("evermore", "stop", "web")
	h.isEmpty()
}

// What gives up is remembered, with held ports as without.
func TestGivenUpWithHeldPorts(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	h.file("a.js", "process.exit(3)\n")
	h.ok("evermore", "start", "--uid", "web", "--hold", "unix:"+h.path("web.sock"), "--min-uptime", "0", "--max-restarts", "2/10m",
		"--termination-log", h.path("words"), "a.js")
	r := h.await("web", "was given up", func(r row) bool { return r.Status == "stopped" })
	if r.Ended == nil || r.Ended.Code != 3 {
		t.Errorf("list: %+v", r)
	}
	h.awaitText("words", `restarts: 2; gave up: it was restarted 2 times`)
	h.file("a.js", socketServer)
	if r := h.runWith([]string{"SOCKET=" + h.path("web.sock")}, "evermore", "restart", "web"); r.code != 0 {
		t.Error(r)
	}
	h.ok("evermore", "stop", "web")
	h.isEmpty()
}

// An app whose URL says when it is ready is asked for it after an adoption, too.
func TestAdoptedIsAskedWhetherItIsReady(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	h.file("a.js", `require('http').createServer((q, r) => r.end()).listen(process.env.PORT)`)
	if r := h.runWith([]string{fmt.Sprint("PORT=", port)}, "evermore", "start", "--uid", "web", "--hold", "auto",
		"--ready", fmt.Sprintf("http://127.0.0.1:%d/", port), "a.js"); r.code != 0 {
		t.Fatal(r)
	}
	is := func(r row) bool { return len(r.Workers) > 0 && r.Workers[0].Ready }
	a := h.await("web", "is ready", is)
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.gone(a.Supervisor)
	h.ok("evermore", "adopt")
	if b := h.await("web", "is ready again", is); b.PID != a.PID {
		t.Errorf("%+v after %+v", b, a)
	}
	h.ok("evermore", "stop", "web")
	h.isEmpty()
}
