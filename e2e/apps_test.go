package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"evermore/bench/load"
)

const appsDir = "testdata/apps"

// installApps gives the folder with what the apps of testdata/apps use, and with
// Next's build of pages/. It is made once for each package.json and pages/, in the
// user's cache.
var installApps = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	top := filepath.Join(cache, "evermore")
	if err := os.MkdirAll(top, 0o755); err != nil {
		return "", err
	}
	// What is there under its own name is complete, also for a test beside this one.
	fresh, err := os.MkdirTemp(top, "fresh-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	sum := fnv.New32a()
	for _, pattern := range []string{"package.json", "pages/*.js", "pages/*/*.js"} {
		files, err := filepath.Glob(filepath.Join(appsDir, pattern))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			sum.Write(text)
			to := filepath.Join(fresh, strings.TrimPrefix(file, appsDir))
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, 0o644)); err != nil {
				return "", err
			}
		}
	}
	dir := filepath.Join(top, "apps-"+strconv.FormatUint(uint64(sum.Sum32()), 16))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	for _, argv := range [][]string{
		{"npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"},
		{"node", "node_modules/next/dist/bin/next", "build"},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = fresh
		cmd.Env = append(os.Environ(), "NEXT_TELEMETRY_DISABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
		}
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
})

// npmApp is an app with packages of npm that evermore runs.
type npmApp struct {
	*host
	port int
	asks string // the path that is answered with the pid
}

// newAppHost gives a host with the apps of testdata/apps and what they use.
func newAppHost(t *testing.T) *npmApp {
	t.Helper()
	needs(t, "node", "npm")
	dir, err := installApps()
	if err != nil {
		lacks(t, fmt.Sprintf("npm cannot bring the apps: %v", err))
	}
	a := &npmApp{host: newHost(t), asks: "/"}
	a.copyTree(appsDir)
	for _, name := range []string{"node_modules", ".next"} {
		if err := os.Symlink(filepath.Join(dir, name), a.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if a.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log:\n%s", a.log("app"))
		}
	})
	return a
}

// begin starts the app; PORT in its arguments is its port.
func (a *npmApp) begin(args ...string) {
	a.t.Helper()
	port := strconv.Itoa(a.port)
	argv := []string{
		"evermore", "start", "--uid", "app", "--min-uptime", "0", "--spin-sleep-time", "1",
		// How long a machine takes to start node is not what is tested.
		"--hold-timeout", patience.String(), "--ready-timeout", patience.String(),
	}
	for _, arg := range args {
		argv = append(argv, strings.ReplaceAll(arg, "PORT", port))
	}
	started := a.runWith([]string{"PORT=" + port, "NEXT_TELEMETRY_DISABLED=1"}, argv...)
	if started.code != 0 {
		a.t.Fatal(started)
	}
}

// answers waits for an answer by a process that is none of these, and gives its pid.
func (a *npmApp) answers(others ...int) (pid int) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("an answer of a process other than %v", others), func() bool {
		text, err := ask(a.port, a.asks)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(text))
		}
		return err == nil && !slices.Contains(others, pid)
	})
	return pid
}

// pids gives the processes of the app that evermore has started.
func (a *npmApp) pids() (list []int) {
	a.t.Helper()
	for _, w := range a.app("app").Workers {
		list = append(list, w.PID)
	}
	return list
}

// renewed waits until so many processes of the app are ready, and none of these is
// among them.
func (a *npmApp) renewed(before []int, n int) {
	a.t.Helper()
	a.await("app", "has new processes", func(r row) bool {
		for _, w := range r.Workers {
			if !w.Ready || slices.Contains(before, w.PID) {
				return false
			}
		}
		return len(r.Workers) == n
	})
}

// under does something in the midst of a light load, and gives what became of the
// requests.
func (a *npmApp) under(do func()) *load.Result {
	a.t.Helper()
	run := load.Load{
		Address: "127.0.0.1:" + strconv.Itoa(a.port), Kept: 2, Fresh: 2, Requests: []load.Request{{Path: a.asks}},
		Pause: 5 * time.Millisecond, Timeout: patience,
	}.Start()
	a.t.Cleanup(func() { run.End() })
	_, _ = load.Disturb(time.Second, time.Second, func() error { do(); return nil })
	return run.End()
}

// killed kills a process of the app in the midst of a load: what it was answering is
// cut, one request of a client at most.
func (a *npmApp) killed(pid int) *load.Result {
	a.t.Helper()
	n := len(a.pids())
	got := a.under(func() {
		a.kill(pid, syscall.SIGKILL)
		a.renewed([]int{pid}, n)
	})
	a.t.Logf("killed: %v", got)
	if got.Failed() > got.Cut || got.Cut > 4 || len(got.By) < 2 {
		a.t.Errorf("killed: %v, by %v; among them %v", got, got.By, got.Failures)
	}
	return got
}

// reloaded replaces them in the midst of a load: no request fails, but for so many
// that may be cut.
func (a *npmApp) reloaded(mayCut int) *load.Result {
	a.t.Helper()
	before := a.pids()
	got := a.under(func() { a.ok("evermore", "reload", "app") })
	a.t.Logf("reloaded: %v", got)
	if got.Failed() > got.Cut || got.Cut > mayCut || len(got.By) < 2 {
		a.t.Errorf("reloaded: %v, by %v; among them %v", got, got.By, got.Failures)
	}
	a.renewed(before, len(before))
	return got
}

// ended stops the app, of which nothing is left.
func (a *npmApp) ended() {
	a.t.Helper()
	if log := a.log("app"); strings.Contains(log, "not held any more") {
		a.t.Error("its port is not held any more")
	}
	a.ok("evermore", "stop", "app")
	a.isEmpty()
}

// Apps as their frameworks' documentation has them keep their ports while node is
// killed, and while it is replaced.
func TestNpmApps(t *testing.T) {
	two := []string{"-i", "2"}
	hold := []string{"--hold", "PORT"}
	next := []string{"node_modules/next/dist/bin/next", "start"}
	for _, c := range []struct {
		name    string
		options []string
		argv    []string // the script, and its arguments
		asks    string
		logs    string // a file with a line for each answer
		client  string // stays connected by a WebSocket, "client transport"
	}{
		{name: "express", options: hold, argv: []string{"express.js"}},
		{name: "express, two processes", options: two, argv: []string{"express.js"}},
		{name: "fastify", options: []string{"--hold", "0.0.0.0:PORT", "-c", "env HOST=0.0.0.0 node"}, argv: []string{"fastify.mjs"}},
		{name: "fastify on IPv4, held on all", options: []string{"--hold", "PORT", "-c", "env HOST=0.0.0.0 node"}, argv: []string{"fastify.mjs"}},
		{name: "fastify on localhost", options: []string{"--hold", "localhost"}, argv: []string{"fastify.mjs"}},
		{name: "fastify, two processes", options: append(two, "-c", "env HOST=0.0.0.0 node"), argv: []string{"fastify.mjs"}},
		{name: "koa", options: hold, argv: []string{"koa.js"}},
		{name: "next, custom server", options: hold, argv: []string{"next.js"}, asks: "/api/pid"},
		{name: "next start", options: hold, argv: next, asks: "/api/pid"},
		{name: "socket.io", options: hold, argv: []string{"socketio.js"}, client: "socketio-client.js polling,websocket"},
		{name: "socket.io, two processes", options: two, argv: []string{"socketio.js"}, client: "socketio-client.js websocket"},
		{name: "ws", options: hold, argv: []string{"ws.js"}, client: "ws-client.js"},
		{name: "tsx", options: append([]string{"-c", "node --import tsx"}, hold...), argv: []string{"tsx.ts"}},
		{name: "log4js", options: hold, argv: []string{"log4js.js"}, logs: "app.log"},
		{name: "log4js, cluster", options: hold, argv: []string{"log4js-cluster.js"}, logs: "app.log"},
		{name: "get-port", options: hold, argv: []string{"get-port.mjs"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t)
			if c.asks != "" {
				a.asks = c.asks
			}
			options := c.options
			if slices.Contains(options, "localhost") {
				// What it is depends on the machine; node listens on all of it.
				options = nil
				names, err := net.LookupIP("localhost")
				if err != nil {
					t.Fatal(err)
				}
				for _, ip := range names {
					options = append(options, "--hold", net.JoinHostPort(ip.String(), "PORT"))
				}
			}
			a.begin(slices.Concat(options, c.argv)...)
			a.answers()
			a.await("app", "is ready", func(r row) bool {
				return r.Workers[0].Ready && (c.options[0] != "-i" || len(r.Workers) == 2 && r.Workers[1].Ready)
			})
			// Without a client any process will do.
			stay := func(...int) int { return a.pids()[0] }
			leave := func() {}
			if c.client != "" {
				stay, leave = a.connect(c.client)
			}
			victim := stay()
			answered := a.killed(victim).Answered
			stay(victim)
			before := a.pids()
			mayCut := 0
			if strings.Contains(c.name, "cluster") {
				// Node's primary accepts for workers that are about to close, one by
				// one, and gives up what it has accepted when none is left.
				mayCut = 4
			}
			answered += a.reloaded(mayCut).Answered
			stay(before...)
			leave()
			a.ended()
			if c.logs != "" {
				text := a.text(c.logs)
				whole := regexp.MustCompile(`(?m)^\[\d{4}-\d\d-\d\dT[\d:.]+\] \[INFO\] default - answered by \d+$`)
				lines, good := strings.Count(text, "\n"), len(whole.FindAllString(text, -1))
				// SIGKILL takes what node has not written yet.
				if lines != good || good < answered/2 {
					t.Errorf("%d answers, %d lines in the log, of which %d are whole", answered, lines, good)
				}
			}
		})
	}
}

// connect has a client stay connected. stay waits until it is so to a process that
// is none of these, which it gives, and leave ends it: it must never have failed to
// get a connection.
func (a *npmApp) connect(client string) (stay func(others ...int) int, leave func()) {
	a.t.Helper()
	script, transports, _ := strings.Cut(client, " ")
	env := append(slices.Clip(a.env), "PORT="+strconv.Itoa(a.port), "TRANSPORTS="+transports)
	c := launch(a.t, plain, a.dir, filepath.Join(a.t.TempDir(), "client"), env, "node", script)
	said := func() string {
		text, err := os.ReadFile(c.stdout)
		if err != nil {
			a.t.Fatal(err)
		}
		return string(text)
	}
	last := regexp.MustCompile(`connected to (\d+)\n$`)
	leave = func() {
		text := said()
		if strings.Contains(text, "failed") || !c.running() {
			errors, _ := os.ReadFile(c.stderr)
			a.t.Errorf("the client says:\n%s%s", text, errors)
		}
		if err := c.signal(syscall.SIGKILL); err != nil {
			a.t.Error(err)
		}
	}
	stay = func(others ...int) (pid int) {
		a.t.Helper()
		if !poll(func() bool {
			m := last.FindStringSubmatch(said())
			if m == nil {
				return false
			}
			var err error
			pid, err = strconv.Atoi(m[1])
			return err == nil && !slices.Contains(others, pid)
		}) {
			a.t.Fatalf("the client is not connected to a process other than %v; it says:\n%s", others, said())
		}
		return pid
	}
	return stay, leave
}

// Uploads of 10 MB that have begun when the app is replaced come to their end, in
// the process in which they have begun.
func TestUploadsUnderReload(t *testing.T) {
	t.Parallel()
	a := newAppHost(t)
	a.begin("--hold", "PORT", "--kill-timeout", (2 * patience).String(), "express.js")
	old := a.answers()

	body := bytes.Repeat([]byte("evermore, 16 b. "), 10<<20/16)
	want := fmt.Sprintf("%d %x", old, sha256.Sum256(body))
	const clients = 4
	halves, rest := make(chan struct{}, clients), make(chan struct{})
	var uploads sync.WaitGroup
	for range clients {
		uploads.Go(func() {
			conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(a.port)))
			if err != nil {
				t.Error(err)
				halves <- struct{}{}
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * patience))
			_, err = fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n", len(body))
			if err == nil {
				_, err = conn.Write(body[:len(body)/2])
			}
			halves <- struct{}{}
			<-rest
			if err == nil {
				_, err = conn.Write(body[len(body)/2:])
			}
			if err != nil {
				t.Errorf("cannot upload: %v", err)
				return
			}
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("no answer to an upload: %v", err)
				return
			}
			text, err := io.ReadAll(answer.Body)
			if err != nil || string(text) != want {
				t.Errorf("an upload is answered with %q, %v; want %q", text, err, want)
			}
		})
	}
	for range clients {
		<-halves
	}
	reload := a.command("evermore", "reload", "app")
	if err := reload.Start(); err != nil {
		t.Fatal(err)
	}
	a.answers(old)
	if !a.lives(old) {
		t.Error("the old process is gone before its uploads have ended")
	}
	close(rest)
	uploads.Wait()
	if err := reload.Wait(); err != nil {
		t.Errorf("reload: %v", err)
	}
	a.gone(old)
	a.ended()
}

// A stream of events goes on while the next process answers all others, until the
// stop signal comes after half of --kill-timeout; who connects again is not refused.
func TestEventsUnderReload(t *testing.T) {
	t.Parallel()
	a := newAppHost(t)
	a.begin("--hold", "PORT", "--kill-timeout", "4s", "express.js")
	old := a.answers()

	open := func() (*bufio.Scanner, io.Closer) {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/events", a.port))
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewScanner(res.Body), res.Body
	}
	from := func(events *bufio.Scanner) (pid int) {
		for events.Scan() {
			if n, err := fmt.Sscanf(events.Text(), "data: %d", &pid); n == 1 && err == nil {
				return pid
			}
		}
		return 0
	}
	events, close := open()
	defer close.Close()
	if got := from(events); got != old {
		t.Fatalf("events come from %d, not from %d", got, old)
	}
	reload := a.command("evermore", "reload", "app")
	if err := reload.Start(); err != nil {
		t.Fatal(err)
	}
	next := a.answers(old)
	during := 0
	for from(events) == old {
		during++
	}
	// What came while the next process started is among them; in the two seconds of
	// the drain there are a hundred.
	if during == 0 {
		t.Error("the stream has ended at once")
	}
	again, close := open()
	defer close.Close()
	if got := from(again); got != next {
		t.Errorf("who connects again gets events from %d, not from %d", got, next)
	}
	if err := reload.Wait(); err != nil {
		t.Errorf("reload: %v", err)
	}
	a.gone(old)
	a.ok("evermore", "stop", "app")
	a.isEmpty()
}

// Npm and tsx let no descriptor through: the app binds its port by itself, which one
// line explains. Without them it is held.
func TestWrappers(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		held bool
	}{
		{"npm start", []string{"--hold", "PORT", "-c", "sh", "npm.sh"}, false},
		{"--npm start", []string{"--hold", "PORT", "--npm", "start"}, true},
		{"tsx", []string{"--hold", "PORT", "-c", "node_modules/.bin/tsx", "tsx.ts"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t)
			a.begin(c.args...)
			a.answers()
			if c.held {
				a.killed(a.pids()[0])
				a.reloaded(0)
				a.ended()
				return
			}
			a.awaitLog("app", `is not held any more`)
			line := regexp.MustCompile(fmt.Sprintf(
				`%d is not held any more, the app binds it by itself: its descriptors did not reach this process: npm, npx, nodemon, tsx`, a.port))
			if got := line.FindAllString(a.log("app"), -1); len(got) != 1 {
				t.Errorf("it is explained by %d lines", len(got))
			}
			a.ok("evermore", "stop", "app")
			a.isEmpty()
		})
	}
}

// A script that has done its work ends, with ports held for it and a line to evermore.
func TestFinishedScript(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	needs(t, "node")
	for name, text := range map[string]string{
		"did not listen":        `console.log('done')`,
		"has closed its server": `const s = require('http').createServer().listen(process.env.PORT, () => s.close(() => console.log('done')))`,
	} {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		h.file("script.js", text)
		// run gives it a minute: whatever holds it up would for ever.
		a := h.runWith([]string{"PORT=" + strconv.Itoa(port)}, "evermore", "--hold", "auto", "--", "node", "script.js")
		if a.code != 0 || !strings.Contains(a.out, "done") {
			t.Errorf("a script that %s: %v", name, a)
		}
	}
	h.isEmpty()
}
