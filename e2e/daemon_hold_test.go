package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"evermore/bench/load"
)

// answering collects which processes answer.
func answering(t *testing.T, port int, times int) map[string]int {
	t.Helper()
	who := map[string]int{}
	for range times {
		text, err := ask(port, "/")
		if err != nil {
			t.Errorf("no answer: %v", err)
		}
		who[text]++
	}
	return who
}

// areTwo tells whether two processes answer by now: while the port is being learned, it
// may be that nobody does.
func areTwo(port int) bool {
	who := map[string]int{}
	for range 20 {
		text, err := ask(port, "/")
		if err != nil {
			return false
		}
		who[text]++
	}
	return len(who) == 2
}

// A supervisor is killed that holds a port for several processes: they serve on, the
// next one takes all of them over, and the port with them, or where it may not do that
// as soon as they have ended. One of them ends later than the other, whose place has no
// port until then.
func TestKilledSupervisorOfInstances(t *testing.T) {
	t.Run("it takes the socket", func(t *testing.T) {
		t.Parallel()
		killedSupervisorOfInstances(t, nil)
	})
	t.Run("it may not", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("only root has the capability to lose")
		}
		killedSupervisorOfInstances(t, []string{"setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"})
	})
}

func killedSupervisorOfInstances(t *testing.T, without []string) {
	h := newHost(t)
	h.file("slow.js", `if (process.env.NODE_APP_INSTANCE === '1') process.on('SIGTERM', () => setTimeout(process.exit, 300))`)
	_, port := h.serve("a", "-i", "2", "--min-uptime", "0", "--spin-sleep-time", "50", "-c", "node -r ./slow.js")
	h.await("a", "is there twice", func(row) bool { return areTwo(port) })
	before := answering(t, port, 20)
	a := h.app("a")
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.gone(a.Supervisor)
	if after := answering(t, port, 20); len(after) != 2 {
		t.Errorf("after kill -9 %v answer, before it %v", after, before)
	}
	if lost := h.app("a"); lost.Status != "unsupervised" {
		t.Fatalf("after kill -9: %+v", lost)
	}
	h.ok(append(without, "evermore", "adopt")...)
	for pid := range answering(t, port, 20) {
		if before[pid] == 0 {
			t.Errorf("%s answers after the adoption, and did not before it", pid)
		}
	}
	if without == nil {
		// It is held for longer than --hold-timeout, and while both are replaced.
		h.ok("sh", "-c", "sleep 6")
		run := load.Load{
			Address: "127.0.0.1:" + strconv.Itoa(port), Fresh: 4, Requests: []load.Request{{Path: "/"}},
			Pause: 5 * time.Millisecond, Timeout: patience,
		}.Start()
		h.ok("evermore", "reload", "a")
		if got := run.End(); got.Refused+got.TimedOut > 0 || got.Answered == 0 {
			t.Errorf("reload after the adoption: %v", got)
		}
	} else {
		h.ok("evermore", "reload", "a")
	}
	h.await("a", "is there twice again", func(row) bool { return areTwo(port) })
	for pid := range answering(t, port, 20) {
		if before[pid] != 0 {
			t.Errorf("%s still answers after a reload", pid)
		}
	}
	// The port is held again: no request is refused while a process is replaced.
	h.ok("evermore", "reload", "a")
	if strings.Contains(h.log("a"), "internal error") {
		t.Error(h.log("a"))
	}
	if alone := strings.Contains(h.log("a"), "scaling script to instances: 1"); alone != (without != nil) {
		t.Errorf("the log:\n%s", h.log("a"))
	}
	h.ok("evermore", "stop", "a")
	h.isEmpty()
	for pid := range before {
		n, err := strconv.Atoi(pid)
		if err != nil || h.lives(n) {
			t.Errorf("%q is left", pid)
		}
	}
}

// A root supervisor binds what its user may not, and gives that user's node nothing
// that was not named.
func TestHeldForAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root binds a port for another user")
	}
	h := newHost(t)
	needs(t, "node")
	h.file("a.js", `const net = require('net'), http = require('http')
http.createServer((q, r) => r.end(String(process.getuid()))).listen(97, () => console.log('listening'))
net.createServer().on('error', (e) => console.log('other port:', e.code)).listen(98)
net.createServer().on('error', (e) => console.log('other path:', e.code)).listen('/run-of-root')`)
	h.ok("evermore", "start", "--uid", "a", "--user", "65534:65534", "--hold", "97", "a.js")
	h.awaitLog("a", "(?s)listening.*|other")
	h.awaitLog("a", "other port: EACCES")
	h.awaitLog("a", "other path: EACCES")
	out := h.ok("node", "-e", `require('http').get({port: 97}, (r) => r.pipe(process.stdout))`)
	if out != "65534" {
		t.Errorf("it answers %q", out)
	}
	h.ok("evermore", "stop", "a")
	h.isEmpty()
}
