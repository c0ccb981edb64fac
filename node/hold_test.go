package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// all is an http server on $PORT that answers with its name.
const app = `require('http').createServer((q, r) => r.end('app')).listen(process.env.PORT, () => console.log('up'))`

// Each form of listen() that is held gives the app the address that it sees alone.
func TestForms(t *testing.T) {
	const forms = `
const http = require('http'), net = require('net');
const servers = JSON.parse(process.env.FORMS).map(args => {
  const s = http.createServer((q, r) => r.end('form'));
  return new Promise((done, failed) => { s.on('error', failed); s.listen(...args, () => done(s)); });
});
Promise.all(servers).then(list => {
  console.log(JSON.stringify(list.map(s => s.address())));
  process.stdin.on('end', () => process.exit()).resume();
});`
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{})
		s.write("forms.js", forms)
		unix := func(name string) Address { return Address{Path: filepath.Join(s.dir, name)} }
		port := func(host string) Address { return Address{Host: host, Port: freePort(t)} }
		var args [][]any
		var hold []Address
		add := func(a Address, form ...any) { hold, args = append(hold, a), append(args, form) }
		a := port("")
		add(a, a.Port)
		a = port("")
		add(a, fmt.Sprint(a.Port), 100)
		a = port("")
		add(a, map[string]any{"port": a.Port, "host": "0:0:0:0:0:0:0:0"})
		a = port("::")
		add(a, map[string]any{"port": fmt.Sprint(a.Port), "backlog": 7})
		a = port("0.0.0.0")
		add(a, a.Port, "0.0.0.0", 100)
		a = port("127.0.0.1")
		add(a, map[string]any{"port": a.Port, "host": "127.0.0.1"})
		a = port("::1")
		add(a, a.Port, "::1")
		a = unix("a.sock")
		add(a, a.Path)
		a = unix("b.sock")
		add(a, map[string]any{"path": "./b.sock", "writableAll": true})
		text, _ := json.Marshal(args)

		alone := exec.Command(node, "forms.js")
		alone.Dir, alone.Env, alone.Stderr = s.dir, []string{"FORMS=" + string(text)}, os.Stderr
		want, err := alone.Output()
		if err != nil {
			t.Fatalf("alone: %v", err)
		}
		for _, h := range hold {
			if err := s.sockets.Add(h); err != nil {
				t.Fatal(err)
			}
		}
		p := s.start([]string{"FORMS=" + string(text)}, "node", "forms.js")
		if got := p.says(); got != strings.TrimSpace(string(want)) {
			t.Errorf("the app sees\n%s, alone\n%s", got, want)
		}
		for _, h := range hold {
			expect(s, 1, func(e Listening) bool { return e.Address == h && e.Held && e.PID == p.Process.Pid && e.Thread == 0 })
			network, to := "tcp", net.JoinHostPort(strings.NewReplacer("0.0.0.0", "127.0.0.1").Replace(h.Host), fmt.Sprint(h.Port))
			if h.Path != "" {
				network, to = "unix", h.Path
			}
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial(network, to) }}}
			answer, err := client.Get("http://form/")
			if err != nil {
				t.Errorf("%s: %v", h, err)
				continue
			}
			if text, _ := io.ReadAll(answer.Body); string(text) != "form" {
				t.Errorf("%s: %q", h, text)
			}
		}
		if info, err := os.Stat(unix("b.sock").Path); err != nil || info.Mode().Perm()&0o222 != 0o222 {
			t.Errorf("writableAll: %v, %v", info.Mode(), err)
		}
		p.stdin.Close()
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// Every kind of app listens on the held port.
func TestApps(t *testing.T) {
	const https = `import https from 'node:https'; import fs from 'node:fs';
https.createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, (q, r) => r.end('app')).listen({ port: process.env.PORT })`
	apps := []struct{ name, file, text, scheme string }{
		{"http", "app.js", app, "http"},
		{"ipv4", "app.js", `require('http').createServer((q, r) => r.end('app')).listen(process.env.PORT, '0.0.0.0')`, "http"},
		{"esm", "app.mjs", `import { createServer } from 'http'; await 0; createServer((q, r) => r.end('app')).listen(process.env.PORT)`, "http"},
		{"net", "app.js", `require('net').createServer(c => c.once('data', () => c.end('HTTP/1.0 200 OK\r\n\r\napp'))).listen(process.env.PORT)`, "http"},
		{"https", "app.mjs", https, "https"},
		{"express", "app.js", `require('express')().get('/', (q, r) => r.send('app')).listen(process.env.PORT)`, "http"},
		{"worker thread", "app.js", `const w = require('worker_threads');
if (w.isMainThread) new w.Worker(__filename, { env: { ...process.env } }); else ` + app, "http"},
		{"cluster", "app.js", `const c = require('cluster');
if (c.isPrimary) { c.fork(); c.fork() } else ` + app, "http"},
		{"shell", "app.sh", "node app.js; true", "http"},
		{"get-port", "app.js", `const http = require('http'); let n = 0;
(function again() { const s = http.createServer((q, r) => r.end('app')); s.listen(process.env.PORT, () => { if (++n < 4) { s.close(); again() } }) })()`, "http"},
		{"asked twice", "app.js", app + `.on('listening', () => require('net').createServer().on('error', e => console.log(e.code)).listen(process.env.PORT))`, "http"},
		{"permission", "app.js", app, "http"},
		{"no file for the preload", "app.js", app, "http"},
	}
	eachLine(t, func(t *testing.T, node string) {
		for _, a := range apps {
			t.Run(a.name, func(t *testing.T) {
				at := Address{Port: freePort(t)}
				var o Options
				if a.name == "no file for the preload" {
					o.PreloadDirs = []string{"/no/such/folder"}
				}
				s := newSupervisor(t, node, o, at)
				s.write("app.js", app)
				s.write(a.file, a.text)
				argv := []string{"node", a.file}
				switch a.name {
				case "shell":
					argv = []string{"sh", a.file}
				case "https":
					certificate(t, s.dir)
				case "express":
					if strings.Contains(node, "node-18") {
						t.Log("express 5 supports node 18 and later")
					}
				case "permission":
					switch {
					case strings.Contains(node, "node-18"):
						return // it knows none
					case strings.Contains(node, "node-24"):
						argv = []string{"node", "--permission", "--allow-fs-read=" + s.dir, a.file}
					default:
						argv = []string{"node", "--experimental-permission", "--allow-fs-read=" + s.dir, a.file}
					}
				}
				p := s.start([]string{onPort(at.Port)}, argv...)
				expect(s, 1, func(e Listening) bool { return e.Address == at && e.Held && e.Main == p.Process.Pid })
				if a.name == "get-port" {
					expect(s, 4, func(e Listening) bool { return e.Held })
					expect(s, 3, func(e Closed) bool { return e.Held && e.Address == at })
				}
				s.get(a.scheme+"://"+local(at.Port), "app")
				if a.name == "asked twice" {
					p.says()
					if got := p.says(); got != "EADDRINUSE" {
						t.Errorf("the app that listens twice sees %q", got)
					}
				}
				if got := s.sockets.Addresses(); !slices.Equal(got, []Address{at}) {
					t.Errorf("what is held: %v", got)
				}
			})
		}
	})
}

// A cluster that schedules with SCHED_NONE can't use what is held: from its second start
// on it has the port for itself.
func TestReleasesToClusterWithoutSchedule(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", `const c = require('cluster'); c.schedulingPolicy = c.SCHED_NONE;
if (c.isPrimary) c.fork().on('exit', (code) => process.exit(code));
else require('http').createServer((q, r) => r.end('app')).on('error', e => process.exit(e.code === 'EADDRINUSE' ? 7 : 1)).listen(process.env.PORT)`)
		if code := s.start([]string{onPort(at.Port)}, "node", "app.js").end(); code != 7 {
			t.Errorf("exit code %d", code)
		}
		r := expect[Released](s, 1, nil)
		if r.Address != at || !strings.HasPrefix(r.Why, "the app's cluster schedules with SCHED_NONE") {
			t.Errorf("released %s: %q", r.Address, r.Why)
		}
		s.start([]string{onPort(at.Port)}, "node", "app.js")
		expect(s, 1, func(e Listening) bool { return !e.Held && e.Address == at })
		s.get("http://"+local(at.Port), "app")
	})
}

// Node loads an app as it does alone: its require hooks are asked, and its module is
// the main one.
func TestLoadedAsAlone(t *testing.T) {
	files := map[string]string{
		"hook.js": `require.extensions['.coffee'] = (m, file) => m._compile("console.log('coffee', require.main === module)", file);
const js = require.extensions['.js'];
require.extensions['.js'] = (m, file) => file.endsWith('hooked.js') ? m._compile("console.log('compiled')", file) : js(m, file);`,
		"app.coffee": "console.log 'not compiled'",
		"hooked.js":  "import 'node:fs'; console.log('not compiled')",
		"main.js":    "console.log(module.parent, module.id, require.main === module, Object.keys(require.cache).length > 0)",
		"order.js":   "Promise.resolve().then(() => console.log('micro')); process.nextTick(() => console.log('tick'))",
		"throws.js":  "process.on('uncaughtException', (e, origin) => console.log(e.message, origin)); throw new Error('thrown')",
		"app.mjs":    "console.log(typeof require, import.meta.url.endsWith('app.mjs')); await 0; console.log('esm')",
	}
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{}, Address{Port: freePort(t)})
		for name, text := range files {
			s.write(name, text)
		}
		for _, argv := range [][]string{
			{"-r", "./hook.js", "app.coffee"},
			{"-r", "./hook.js", "hooked.js"},
			{"main.js"},
			{"order.js"},
			{"throws.js"},
			{"app.mjs"},
			{"-p", "process.argv.length"},
		} {
			alone := exec.Command(node, argv...)
			alone.Dir, alone.Env, alone.Stderr = s.dir, []string{"NODE_NO_WARNINGS=1"}, os.Stderr
			want, err := alone.Output()
			if err != nil {
				t.Fatalf("%q alone: %v", argv, err)
			}
			p := s.start(nil, append([]string{"node"}, argv...)...)
			got, err := io.ReadAll(p.out)
			if code := p.end(); err != nil || code != 0 || string(got) != string(want) {
				t.Errorf("%q: exit code %d, %v, and it says %q; alone %q", argv, code, err, got, want)
			}
		}
	})
}

// certificate makes key.pem and cert.pem.
func certificate(t *testing.T, dir string) {
	t.Helper()
	c := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
		"-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-nodes", "-subj", "/CN=localhost")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// What can't be held the app binds by itself, as alone, and evermore is told why.
func TestReleases(t *testing.T) {
	listen := func(args string) string {
		return `require('http').createServer((q, r) => r.end('app')).listen(` + args + `)`
	}
	const P = `process.env.PORT`
	cases := []struct {
		name string
		host string // that is held
		text string
		argv []string
		why  string
	}{
		{"other host", "", listen(P + `, '127.0.0.1'`), nil, "the app listens on the address 127.0.0.1"},
		{"a name", "", listen(`{ port: ` + P + `, host: 'localhost' }`), nil, "the app listens on the address"},
		{"wider", "127.0.0.1", listen(P), nil, "the app listens on all addresses"},
		{"exclusive", "", listen(`{ port: ` + P + `, exclusive: true }`), nil, "the app listens with exclusive"},
		{"reusePort", "", listen(`{ port: ` + P + `, reusePort: true }`), nil, "the app listens with reusePort"},
		{"too often", "", `(function again(n) { const s = ` + listen(P+`, () => { if (n) { s.close(); again(n - 1) } }`) + ` })(4)`, nil, "it was listened on more than 4 times"},
		{"npm", "", app, []string{"npm", "start"}, "its descriptors did not reach this process"},
		{"npm in a shell", "", app, []string{"sh", "-c", "npm start; true"}, "its descriptors did not reach this process"},
		{"node --watch", "", app, []string{"node", "--watch", "app.js"}, "its descriptors did not reach this process"},
		{"child", "", `require('child_process').fork('child.js')`, nil, "its descriptors did not reach this process"},
	}
	eachLine(t, func(t *testing.T, node string) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				if c.name == "reusePort" && !strings.Contains(node, "node-24") {
					return
				}
				at := Address{Host: c.host, Port: freePort(t)}
				s := newSupervisor(t, node, Options{}, at)
				s.write("app.js", c.text)
				s.write("child.js", app)
				s.write("package.json", `{ "scripts": { "start": "node app.js" } }`)
				argv := c.argv
				if argv == nil {
					argv = []string{"node", "app.js"}
				}
				p := s.start([]string{onPort(at.Port)}, argv...)
				r := expect[Released](s, 1, nil)
				if r.Address != at || !strings.HasPrefix(r.Why, c.why) {
					t.Errorf("released %s: %q", r.Address, r.Why)
				}
				l := expect(s, 1, func(e Listening) bool { return !e.Held })
				if l.Address.Port != at.Port || l.Main != p.Process.Pid {
					t.Errorf("it listens: %+v", l)
				}
				url := "http://" + local(at.Port)
				if strings.Contains(l.Address.Host, ":") {
					url = fmt.Sprintf("http://[%s]:%d", l.Address.Host, at.Port)
				}
				s.get(url, "app")
				if got := s.sockets.Addresses(); len(got) != 0 {
					t.Errorf("still held: %v", got)
				}
			})
		}
	})
}

// What an app has bound by a name can be held for the next one, which gives the same
// name.
func TestLearnedName(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{})
		s.write("app.js", `const s = require('http').createServer((q, r) => r.end('app')).listen(process.env.PORT, 'localhost');
if (process.env.CLOSES) s.on('listening', () => s.close())`)
		port := freePort(t)
		s.start([]string{onPort(port), "CLOSES=1"}, "node", "app.js")
		l := expect(s, 1, func(e Listening) bool { return !e.Held })
		if !net.ParseIP(l.Address.Host).IsLoopback() || l.Address.Port != port {
			t.Fatalf("it listens: %+v", l)
		}
		if c := expect[Closed](s, 1, nil); c.Address != l.Address {
			t.Errorf("closed: %+v", c)
		}
		expect[Gone](s, 1, nil)
		if err := s.sockets.Add(l.Address); err != nil {
			t.Fatal(err)
		}
		s.start([]string{onPort(port)}, "node", "app.js")
		expect(s, 1, func(e Listening) bool { return e.Held && e.Address == l.Address })
	})
}

// An app that clears away its socket before it listens gets one of its own.
func TestRemovedSocket(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{})
		at := Address{Path: filepath.Join(s.dir, "app.sock")}
		if err := s.sockets.Add(at); err != nil {
			t.Fatal(err)
		}
		s.write("app.js", `require('fs').unlinkSync('app.sock'); require('net').createServer(c => c.end('app')).listen('app.sock')`)
		s.start(nil, "node", "app.js")
		if r := expect[Released](s, 1, nil); r.Address != at || !strings.HasSuffix(r.Why, "was removed") {
			t.Errorf("released: %+v", r)
		}
		expect(s, 1, func(e Listening) bool { return !e.Held && e.Address == at })
		c, err := net.Dial("unix", at.Path)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(c); string(text) != "app" {
			t.Errorf("%q, %v", text, err)
		}
	})
}

// A child that listens where the app itself does finds the address in use, as it
// would alone: nothing is released.
func TestUsedIsNotReleased(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", `require('http').createServer((q, r) => r.end('app')).listen(process.env.PORT, () =>
setTimeout(() => require('child_process').fork('child.js'), 200))`)
		s.write("child.js", `require('net').createServer().on('error', e => console.log(e.code)).listen(process.env.PORT)`)
		p := s.start([]string{onPort(at.Port)}, "node", "app.js")
		if got := p.says(); got != "EADDRINUSE" {
			t.Errorf("the child sees %q", got)
		}
		s.get("http://"+local(at.Port), "app")
	})
}

// What is none of evermore's stays as it is: other ports, port 0, descriptors, UDP.
// The learned port is told.
func TestUntouched(t *testing.T) {
	const text = `
const net = require('net'), dgram = require('dgram');
const { fds } = JSON.parse(process.env.EVERMORE_NODE).held[0];
net.createServer().listen(0, () => {
  const other = net.createServer().listen({ fd: fds[3] }, () => {
    const d = dgram.createSocket('udp4'); d.bind(Number(process.env.HELD), () => {
      net.createServer().listen(process.env.PORT, '127.0.0.1', () => console.log(String(other.address().port) === process.env.HELD));
    });
  });
});`
	eachLine(t, func(t *testing.T, node string) {
		held, port := freePort(t), freePort(t)
		s := newSupervisor(t, node, Options{}, Address{Port: held})
		s.write("app.js", text)
		p := s.start([]string{onPort(port), fmt.Sprintf("HELD=%d", held)}, "node", "app.js")
		if got := p.says(); got != "true" {
			t.Errorf("the app says %q", got)
		}
		expect(s, 1, func(e Listening) bool { return e.Address == Address{Host: "127.0.0.1", Port: port} && !e.Held })
		for _, e := range s.seen() {
			if e, ok := e.(Listening); ok && e.Address.Port != port {
				t.Errorf("told: %+v", e)
			}
		}
	})
}

// The preload changes no end: not that of a script that is done, not an exit code,
// and not what a signal does.
func TestEnds(t *testing.T) {
	cases := []struct {
		text string
		code int
	}{
		{`setTimeout(() => {}, 20)`, 0},
		{`process.exitCode = 7`, 7},
		{`process.on('exit', () => process.exit(9)); setImmediate(() => { throw 1 })`, 9},
		{`await new Promise(() => {})`, 13},
		{`const net = await import('net'); const s = net.createServer().listen(process.env.PORT, () => s.close())`, 0},
		{`const net = await import('net'); net.createServer().listen(process.env.PORT, () => process.exit(3))`, 3},
		{`const net = await import('net'); net.createServer().listen(process.env.PORT).on('listening', () => { throw 1 }); process.on('uncaughtException', () => process.exit(4))`, 4},
		{`const net = await import('net'); try { net.createServer().listen(-1) } catch (e) { process.exit(e.code === 'ERR_SOCKET_BAD_PORT' ? 5 : 6) }`, 5},
		{`const net = await import('net'); const s = net.createServer().listen(process.env.PORT); try { s.listen(process.env.PORT) } catch (e) { process.exit(e.code === 'ERR_SERVER_ALREADY_LISTEN' ? 5 : 6) }`, 5},
		{`import { Server } from 'net'; const c = new AbortController(); new Server().listen({ port: process.env.PORT, signal: c.signal }, () => c.abort())`, 0},
	}
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{AtStart: true, Messages: true, Stats: true}, at)
		for i, c := range cases {
			p := s.start([]string{onPort(at.Port)}, "node", s.write(fmt.Sprintf("end%d.mjs", i), c.text))
			if code := p.end(); code != c.code {
				t.Errorf("%s: exit code %d, not %d", c.text, code, c.code)
			}
		}
		s.write("app.js", app)
		p := s.start([]string{onPort(at.Port)}, "node", "app.js")
		p.says()
		// The supervisor's death.
		s.link.Close()
		s.sockets.mu.Lock()
		for _, n := range s.sockets.list {
			syscall.Close(n.fd)
		}
		s.sockets.list = nil
		s.sockets.mu.Unlock()
		s.get("http://"+local(at.Port), "app")
		_ = p.Process.Signal(syscall.SIGTERM)
		p.end()
		if st := p.ProcessState.Sys().(syscall.WaitStatus); st.Signal() != syscall.SIGTERM {
			t.Errorf("after TERM: %v", p.ProcessState)
		}
	})
}

// A name is what it resolves to.
func TestLocalhost(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		port := freePort(t)
		s := newSupervisor(t, node, Options{}, Address{Host: "127.0.0.1", Port: port}, Address{Host: "::1", Port: port})
		s.write("app.js", `const s = require('net').createServer().listen(process.env.PORT, 'localhost', () => console.log(s.address().address))`)
		ip := s.start([]string{onPort(port)}, "node", "app.js").says()
		expect(s, 1, func(e Listening) bool { return e.Held && e.Address.Host == ip })
	})
}

// Where node can't reach the link, what is held is used all the same.
func TestNoLink(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{Dirs: []string{"/no/such/folder"}}, at)
		if strings.Contains(node, "node-18") || strings.Contains(node, "node-20") {
			if s.link.file != "" {
				t.Fatalf("there is %s", s.link.file)
			}
		} else {
			s.link.Close()
		}
		s.write("app.js", app)
		s.start([]string{onPort(at.Port)}, "node", "app.js").says()
		s.get("http://"+local(at.Port), "app")
	})
}

// Negative controls: without the preload the app can't listen, and without held
// sockets a client is refused while node is away.
func TestWithout(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", app+`.on('error', e => console.log(e.code))`)
		c := exec.Command(node, "app.js")
		c.Dir, c.Env = s.dir, []string{onPort(at.Port)}
		if out, _ := c.Output(); string(out) != "EADDRINUSE\n" {
			t.Errorf("without the preload the app says %q", out)
		}
		s.sockets.Close()
		if _, err := get("http://" + local(at.Port)); !refused(err) {
			t.Errorf("without sockets: %v", err)
		}
	})
}
