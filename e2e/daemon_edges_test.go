package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A script that starts daemons holds locks and pipes; no daemon may hold them for
// it.
func TestDaemonInheritsNothing(t *testing.T) {
	t.Parallel()
	needs(t, "flock")
	h := newHost(t)
	h.file("a.sh", sleeper)
	h.ok("sh", "-c", "exec 9> lock; flock -n 9 && evermore start --uid a -c sh a.sh")
	if r := h.run("flock", "-n", "lock", "true"); r.code != 0 {
		t.Error("the daemon holds the lock of the script that started it")
	}
	a := h.app("a")
	for _, pid := range []int{a.PID, a.Supervisor} {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.init.outside(pid)))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.HasSuffix(to, "/lock") {
				t.Errorf("%s is %s", fd, to)
			}
		}
	}
	// Nor is a daemon a part of the app that started it, and ends with it.
	h.file("inner.sh", sleeper)
	h.start("outer", "evermore start --uid inner -c sh inner.sh; exec sleep 100000\n")
	inner := h.await("inner", "runs", func(r row) bool { return r.PID != 0 })
	h.ok("evermore", "restart", "outer")
	h.ok("evermore", "stop", "outer")
	if r := h.app("inner"); r.Status != "running" || r.PID != inner.PID || r.Supervisor != inner.Supervisor {
		t.Errorf("the daemon that an app started: %+v after %+v", r, inner)
	}
	h.ok("evermore", "stop", "inner")

	// The ignored signals of nohup(1) are not the app's either.
	h.file("b.sh", "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done\n")
	h.ok("sh", "-c", "trap '' TERM INT HUP CHLD; evermore start --uid b -c sh b.sh")
	h.awaitLog("b", "up\n")
	h.ok("evermore", "stop", "b")
	h.ok("evermore", "stop", "a")
	h.isEmpty()
}

// Signals to a supervisor mean what they say on any other.
func TestDaemonSignals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		uid := strconv.Itoa(int(s)) + "-ended"
		a := h.start(uid, "trap 'echo told; exit 6' TERM INT QUIT; echo up; while :; do sleep 0.05; done\n")
		h.awaitLog(uid, "up\n")
		h.kill(a.Supervisor, s)
		h.gone(a.Supervisor)
		if h.lives(a.PID) || strings.Count(h.log(uid), "told\n") != 1 {
			t.Errorf("%v: the app lives, or was not told:\n%s", s, h.log(uid))
		}
	}
	h.isEmpty()
	a := h.start("usr", "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done\n")
	h.awaitLog("usr", "up\n")
	h.ok("evermore", "signal", "USR1", "usr")
	h.awaitLog("usr", "usr1\n")
	h.ok("evermore", "signal", "SIGUSR2", "usr")
	h.awaitLog("usr", "usr2\n")
	h.kill(a.Supervisor, syscall.SIGHUP) // there is no terminal that hangs up
	h.awaitLog("usr", "hup\n")
	h.fails(2, "unknown signal", "evermore", "signal", "NOPE", "usr")
	if r := h.app("usr"); r.PID != a.PID {
		t.Errorf("%+v after %+v", r, a)
	}

	// A frozen app cannot be asked to end; it ends all the same.
	b := h.start("frozen", sleeper, "--kill-timeout", "300ms")
	h.kill(b.PID, syscall.SIGSTOP)
	h.ok("evermore", "restart", "frozen")
	if r := h.app("frozen"); r.PID == b.PID || h.lives(b.PID) {
		t.Errorf("%+v after %+v", r, b)
	}
	b = h.app("frozen")
	h.kill(b.PID, syscall.SIGSTOP)
	h.ok("evermore", "stop", "frozen")
	if h.lives(b.PID) {
		t.Error("the frozen app lives")
	}
	h.ok("evermore", "stopall")
	h.isEmpty()
}

// A restart tells when there is nothing that it could start.
func TestRestartFails(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("tool", "#!/bin/sh\nexec sh \"$@\"\n")
	h.file("a.sh", sleeper)
	h.ok("evermore", "start", "--uid", "a", "--spin-sleep-time", "1h", "-c", h.path("tool"), "a.sh")
	a := h.app("a")
	if err := os.Rename(h.path("tool"), h.path("away")); err != nil {
		t.Fatal(err)
	}
	h.fails(1, "cannot restart a: .*no such file", "evermore", "restart", "a")
	r := h.await("a", "pauses", func(r row) bool { return r.State == "backoff" })
	if r.Supervisor != a.Supervisor || h.lives(a.PID) {
		t.Errorf("%+v after %+v", r, a)
	}
	if err := os.Rename(h.path("away"), h.path("tool")); err != nil {
		t.Fatal(err)
	}
	h.ok("evermore", "restart", "a")
	if r := h.app("a"); !h.lives(r.PID) {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "stop", "a")

	// An app that is remembered as ended, and cannot be started again, stays so.
	h.file("b.sh", "exit 3\n")
	h.ok("evermore", "start", "--uid", "b", "-c", h.path("tool"), "b.sh")
	h.await("b", "has ended", func(r row) bool { return r.Status == "stopped" })
	if err := os.Remove(h.path("b.sh")); err != nil {
		t.Fatal(err)
	}
	h.fails(1, `cannot restart b: (?s).*b\.sh does not exist`, "evermore", "restart", "b")
	if r := h.app("b"); r.Status != "stopped" {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "stop", "b")
	h.isEmpty()
}

// Of commands at once on an app without a supervisor, each does what it says or
// says why not, and there is one supervisor in the end.
func TestAdoptAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.start("a", sleeper)
	for range 2 {
		h.kill(a.Supervisor, syscall.SIGKILL)
		h.gone(a.Supervisor)
		results := make(chan answer, 4)
		for range cap(results) {
			go func() { results <- h.run("evermore", "adopt") }()
		}
		adopted := 0
		for range cap(results) {
			r := <-results
			switch {
			case strings.Contains(r.out, "adopted"):
				adopted++
			case r.code != 0 && !strings.Contains(r.err, "taken"):
				t.Error(r)
			}
		}
		rows := h.list()
		if adopted == 0 || len(rows) != 1 || rows[0].Status != "running" || rows[0].PID != a.PID {
			t.Fatalf("%d of them adopted; list: %+v", adopted, rows)
		}
		a = rows[0]
	}
	// Its supervisor dies while it stops it.
	b := h.start("b", "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done\n", "--kill-timeout", "2s")
	h.awaitLog("b", "up\n")
	stop := make(chan answer, 1)
	go func() { stop <- h.run("evermore", "stop", "b") }()
	h.awaitLog("b", "asked\n")
	h.kill(b.Supervisor, syscall.SIGKILL)
	if r := <-stop; r.code == 0 && h.lives(b.PID) {
		t.Errorf("the app lives after %v", r)
	}
	if r := h.find("b"); r != nil {
		if r.Status != "unsupervised" || r.PID != b.PID {
			t.Errorf("%+v", r)
		}
		h.ok("evermore", "stop", "--kill-signal", "KILL", "b")
	}
	if h.lives(b.PID) {
		t.Error("the app lives")
	}
	h.ok("evermore", "stopall")
	h.isEmpty()
}

// Garbage on the socket, readers that read nothing and strangers keep nobody from
// being served.
func TestSocket(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	h := newHost(t)
	a := h.start("a", sleeper)
	sockets, _ := filepath.Glob(filepath.Join(h.root, "sock", "*.sock"))
	if len(sockets) != 1 {
		t.Fatalf("these are the sockets: %q", sockets)
	}
	// From outside of its pid namespace nobody is served: who asks cannot be seen.
	conn, err := net.Dial("unix", sockets[0])
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write([]byte("GET /v1/state HTTP/1.0\r\n\r\n"))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("it answers a process that it cannot see")
		}
		conn.Close()
	}
	h.file("client.js", `
const net = require('net'), http = require('http'), socketPath = process.argv[2];
const send = (text) => new Promise((done) => {
  const c = net.connect(socketPath, () => c.write(text));
  let said = '';
  c.on('data', (d) => said += d);
  c.on('error', () => done(said)).on('close', () => done(said));
});
const ask = (method, path, body = '') => new Promise((done, failed) => {
  http.request({ socketPath, method, path, headers: { 'content-length': Buffer.byteLength(body) } }, (r) => {
    let text = '';
    r.on('data', (d) => text += d).on('end', () => done(r.statusCode + ' ' + text.trim()));
  }).on('error', failed).end(body);
});
(async () => {
  await send('\x00\xff garbage\r\n\r\n');
  await send('GET ' + 'x'.repeat(100000));
  await send('POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{');
  const idle = [];
  for (let i = 0; i < 63; i++) idle.push(net.connect(socketPath).on('error', () => {}));
  console.log('state', (await ask('GET', '/v1/state')).slice(0, 3));
  console.log('none', await ask('GET', '/v2/x'));
  console.log('method', (await ask('GET', '/v1/stop')).slice(0, 3));
  console.log('long', (await ask('POST', '/v1/signal', JSON.stringify({ signal: 'x'.repeat(10000) }))).slice(0, 3));
  console.log('unknown', await ask('POST', '/v1/signal', '{"sginal": "HUP"}'));
  console.log('bad', await ask('POST', '/v1/signal', '{"signal": "NOPE"}'));
  console.log('logs', JSON.stringify(await ask('GET', '/v1/logs?n=1')));
  console.log('stream', await ask('GET', '/v1/logs?stream=x'));
  console.log('env', /SECRET/.test(await ask('GET', '/v1/state')));
  idle.forEach((c) => c.destroy());
})();
`)
	out := h.ok("node", "client.js", sockets[0])
	for _, want := range []string{
		"state 200", "none 404", "method 405", "unknown 400 {", "bad 400 {", `unknown signal \"NOPE\"`, `logs "200 up ` + strconv.Itoa(a.PID) + `"`, "stream 400 {", "env false",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	if r := h.app("a"); r.PID != a.PID || r.Status != "running" {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "stop", "a")
	h.isEmpty()
}

// What else is amiss keeps nobody from adopting an app that serves.
func TestAdoptInSpite(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	a := h.start("a", sleeper, "--http", address)
	h.kill(a.Supervisor, syscall.SIGKILL)
	h.gone(a.Supervisor)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h.ok("evermore", "adopt")
	h.awaitLog("a", "cannot listen on "+address)
	if r := h.app("a"); r.Status != "running" || r.PID != a.PID {
		t.Errorf("%+v after %+v", r, a)
	}
	h.ok("evermore", "stop", "a")
	h.isEmpty()

	b := h.start("b", sleeper)
	h.kill(b.Supervisor, syscall.SIGKILL)
	h.gone(b.Supervisor)
	if err := os.Remove(h.path("b.sh")); err != nil {
		t.Fatal(err)
	}
	if r := h.run("evermore", "stop", "b"); r.code != 0 && !strings.Contains(r.err, fmt.Sprintf("kill -TERM %d ", b.PID)) {
		t.Errorf("nobody says how to end it: %v", r)
	}
}

// What gives up is restarted and stopped as what has given up: there is no moment
// in between at which neither restart nor start can be had.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	givingUp := func() {
		t.Helper()
		h.await("a", "gives up", func(r row) bool { return r.Status == "running" && r.State == "stopped" })
	}
	h.file("hook.sh", "touch hooked; while [ -e hold ]; do sleep 0.02; done\n")
	h.file("hold", "")
	h.start("a", "exit 3\n", "--on-exit", "sh "+h.path("hook.sh"))
	givingUp()
	h.file("a.sh", sleeper)
	restart := make(chan answer, 1)
	go func() { restart <- h.run("evermore", "restart", "a") }()
	if err := os.Remove(h.path("hold")); err != nil {
		t.Fatal(err)
	}
	if r := <-restart; r.code != 0 {
		t.Error(r)
	}
	if r := h.app("a"); r.Status != "running" || !h.lives(r.PID) {
		t.Errorf("%+v", r)
	}
	h.ok("evermore", "stop", "a")
	h.isEmpty()

	h.file("hold", "")
	h.start("a", "exit 3\n", "-a", "--on-exit", "sh "+h.path("hook.sh"))
	givingUp()
	h.ok("evermore", "stop", "a")
	h.isEmpty()
}
