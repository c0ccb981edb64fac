package node

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pause is long enough for a client with a connection to ask once more.
const pause500 = 500 * time.Millisecond

// load is what came of requests.
type load struct {
	mu                                  sync.Mutex
	ok, refused, cut, timedOut, invalid int
	first                               error
}

func (l *load) String() string {
	return fmt.Sprintf("%d ok, %d refused, %d cut, %d timed out, %d invalid", l.ok, l.refused, l.cut, l.timedOut, l.invalid)
}

func (l *load) count(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var timeout net.Error
	switch {
	case err == nil:
		l.ok++
		return
	case refused(err):
		l.refused++
	case errors.As(err, &timeout) && timeout.Timeout():
		l.timedOut++
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		l.cut++
	default:
		l.invalid++
	}
	if l.first == nil {
		l.first = err
	}
}

// run sends requests by six clients until stop is closed: half of them keep their
// connection, one asks for what is slow. Nothing is tried again.
func (l *load) run(at string, stop <-chan struct{}) (done *sync.WaitGroup) {
	done = &sync.WaitGroup{}
	for i := range 6 {
		done.Go(func() {
			path := "/"
			if i == 3 {
				path = "/slow"
			}
			var c *client
			for {
				select {
				case <-stop:
					return
				case <-time.After(rand.N(4 * time.Millisecond)):
				}
				err := error(nil)
				if c == nil {
					c, err = connect(at)
				}
				keep := false
				if err == nil {
					keep, err = c.ask(path)
				}
				l.count(err)
				if c != nil && (err != nil || !keep || i%2 == 1) {
					c.Close()
					c = nil
				}
			}
		})
	}
	return done
}

// client is a connection on which nothing is tried twice.
type client struct {
	net.Conn
	in *bufio.Reader
}

const askTime = 20 * time.Second

func connect(at string) (*client, error) {
	c, err := net.DialTimeout("tcp", at, askTime)
	if err != nil {
		return nil, err
	}
	return &client{c, bufio.NewReader(c)}, nil
}

func (c *client) ask(path string) (keep bool, err error) {
	_ = c.SetDeadline(time.Now().Add(askTime))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: app\r\n\r\n", path); err != nil {
		return false, err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return false, err
	}
	if answer.StatusCode != http.StatusOK {
		return false, errors.New(answer.Status)
	}
	return !answer.Close, nil
}

// polite ends by itself, and with 1 where evermore has got in its way.
const polite = `
const s = require('http').createServer((q, r) => setTimeout(() => r.end(String(process.pid)), q.url === '/slow' ? 300 : Math.random() * 5));
s.listen(process.env.PORT); process.on('SIGTERM', () => s.close(e => process.exit(e ? 1 : 0)));`

// Over SIGKILL no request is refused; only what was being answered is cut.
// Over reloads none fails.
func TestLoad(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", polite)
		run := func() *process {
			p := s.start([]string{onPort(at.Port)}, "node", "app.js")
			expect(s, 1, func(e Listening) bool { return e.PID == p.Process.Pid })
			return p
		}
		p := run()
		under := func(times int, change func()) *load {
			l, stop := &load{}, make(chan struct{})
			done := l.run(local(at.Port), stop)
			for i := range times + 1 {
				until(t, "answers", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.ok > 100*(i+1) })
				if i < times {
					change()
				}
			}
			close(stop)
			done.Wait()
			return l
		}

		l := under(3, func() {
			_ = p.Process.Kill()
			p.end()
			p = run()
		})
		t.Logf("3 times SIGKILL: %v", l)
		// Six clients: one request each may be under way.
		if l.refused+l.timedOut+l.invalid > 0 || l.cut > 3*6 || l.cut == 0 {
			t.Errorf("SIGKILL: %v; first: %v", l, l.first)
		}

		l = under(3, func() {
			old := p
			p = run()
			if s.link.Drain(old.Process.Pid, pause500) != 1 {
				t.Error("nobody was told to drain")
			}
			expect(s, 1, func(e Drained) bool { return e.Main == old.Process.Pid })
			_ = old.Process.Signal(syscall.SIGTERM)
			s.link.Stopping(old.Process.Pid)
			if code := old.end(); code != 0 {
				t.Errorf("the old one ends with %d", code)
			}
		})
		t.Logf("3 reloads: %v", l)
		if l.refused+l.timedOut+l.invalid+l.cut > 0 {
			t.Errorf("reload: %v; first: %v", l, l.first)
		}
	})
}

// A drain leaves alone what is upgraded, and an answer that goes on, for which it
// waits; it lets a client that asks again know, and closes what idles or never
// asked. For the app its own close() is the first.
func TestDrain(t *testing.T) {
	const text = `
const fs = require('fs'), ws = require('ws'), ends = [];
const answer = (q, r) => {
  if (q.url !== '/events') return r.end('x');
  r.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n');
};
const s = process.env.SCHEME === 'http' ? require('http').createServer(answer)
  : require('https').createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, answer);
s.listen(process.env.PORT);
new ws.WebSocketServer({ server: s }).on('connection', c => { c.on('message', m => c.send(m)); ends.push(() => c.terminate()) });
process.on('SIGTERM', () => {
  s.close(e => { console.log(String(e)); s.close(e => { console.log(e.code); process.exit() }) });
  for (const end of ends) end();
});`
	drain := func(t *testing.T, node, scheme string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", text)
		certificate(t, s.dir)
		p := s.start([]string{onPort(at.Port), "SCHEME=" + scheme}, "node", "app.js")
		main := p.Process.Pid
		expect[Listening](s, 1, nil)
		open := func() *client {
			c, err := connect(local(at.Port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(askTime))
			if scheme == "https" {
				secure := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
				if err := secure.Handshake(); err != nil {
					t.Fatal(err)
				}
				c = &client{secure, bufio.NewReader(secure)}
			}
			return c
		}
		to := func(request string) (*client, *http.Response) {
			c := open()
			fmt.Fprintf(c, "GET %s\r\n\r\n", strings.ReplaceAll(request, "\n", "\r\n"))
			answer, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			return c, answer
		}
		silent := open()
		stream, _ := to("/events HTTP/1.1\nHost: app")
		socket, upgrade := to("/ HTTP/1.1\nHost: app\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
		idle, _ := to("/ HTTP/1.1\nHost: app")
		asks, first := to("/ HTTP/1.1\nHost: app")
		if upgrade.StatusCode != http.StatusSwitchingProtocols || first.Close {
			t.Fatalf("%+v, %+v", upgrade, first)
		}
		_, _ = io.Copy(io.Discard, first.Body)

		s.link.Drain(main, pause500)
		expect(s, 1, func(e Closed) bool { return e.Address == at && e.Held })
		if keep, err := asks.ask("/"); keep || err != nil {
			t.Errorf("a request while it drains: keep %v, %v", keep, err)
		}
		for name, c := range map[string]*client{"idle": idle, "silent": silent} {
			if _, err := io.Copy(io.Discard, c.in); err != nil {
				t.Errorf("the %s connection: %v", name, err)
			}
		}
		for _, e := range s.seen() {
			if _, ok := e.(Drained); ok {
				t.Error("drained, and a stream goes on")
			}
		}
		stream.Close()
		expect(s, 1, func(e Drained) bool { return e.Main == main })
		// A masked text frame with a mask of zeroes, RFC 6455.
		fmt.Fprint(socket, "\x81\x85\x00\x00\x00\x00hello")
		frame := make([]byte, 7)
		if _, err := io.ReadFull(socket.in, frame); err != nil || string(frame[2:]) != "hello" {
			t.Errorf("the upgraded connection: %q, %v", frame, err)
		}
		_ = p.Process.Signal(syscall.SIGTERM)
		if a, b := p.says(), p.says(); a != "undefined" || b != "ERR_SERVER_NOT_RUNNING" {
			t.Errorf("the app's close() gives %s, then %s", a, b)
		}
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	eachLine(t, func(t *testing.T, node string) {
		for _, scheme := range []string{"http", "https"} {
			t.Run(scheme, func(t *testing.T) { drain(t, node, scheme) })
		}
	})
}

// Until an app closes its server it sees one that listens, though it drains.
func TestDrainIsUnseen(t *testing.T) {
	const text = `
const http = require('http');
const s = http.createServer((q, r) => setTimeout(() => {
  // A list of headers, as of rawHeaders.
  r.writeHead(200, ['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'X-Port', String(s.address().port)]);
  r.end('x');
}, 300));
s.on('close', () => console.log('closed'));
s.listen(process.env.PORT);
// What is idle and is closed has this one exit, and what goes on at the other would be cut.
const other = http.createServer().listen(process.env.OTHER).on('close', () => process.exit(9));
process.on('SIGTERM', () => {
  console.log(s.listening, other.listening, s.address().port == process.env.PORT);
  s.close(() => {
    console.log(s.listening, s.address());
    setTimeout(() => process.exit(), 50);
  });
});`
	eachLine(t, func(t *testing.T, node string) {
		at, other := Address{Port: freePort(t)}, Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at, other)
		s.write("app.js", text)
		p := s.start([]string{onPort(at.Port), fmt.Sprintf("OTHER=%d", other.Port)}, "node", "app.js")
		expect[Listening](s, 2, nil)
		c, err := connect(local(at.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if keep, err := c.ask("/"); !keep || err != nil { // else it may wait for another process to accept it
			t.Fatalf("keep %v, %v", keep, err)
		}
		_ = c.SetDeadline(time.Now().Add(askTime))
		// Half of it comes before the drain.
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: app\r\n")
		s.link.Drain(p.Process.Pid, pause500)
		expect(s, 2, func(e Closed) bool { return e.Held })
		fmt.Fprint(c, "\r\n")
		answer, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookies := answer.Header["Set-Cookie"]; len(cookies) != 2 || !answer.Close || answer.Header.Get("X-Port") != fmt.Sprint(at.Port) {
			t.Errorf("it is answered with %v, close %v", answer.Header, answer.Close)
		}
		expect(s, 1, func(e Drained) bool { return e.Main == p.Process.Pid })
		_ = p.Process.Signal(syscall.SIGTERM)
		s.link.Stopping(p.Process.Pid)
		for _, want := range []string{"true true true", "closed", "false null"} {
			if got := p.says(); got != want {
				t.Errorf("it says %q, not %q", got, want)
			}
		}
		if more, _ := io.ReadAll(p.out); len(more) > 0 {
			t.Errorf("it says more: %s", more)
		}
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// Node answers an upgrade by itself where the app does not listen for it, also
// when it did before.
func TestUpgradeOfNobody(t *testing.T) {
	const text = `
const s = require('http').createServer((q, r) => r.end(q.method));
s.listen(process.env.PORT, () => {
  if (!process.env.BEFORE) return console.log(s.listenerCount('upgrade'));
  const f = () => {};
  s.on('upgrade', f); s.once('upgrade', f);
  const n = s.listenerCount('upgrade');
  s.removeListener('upgrade', f).removeListener('upgrade', f);
  console.log(n - 3 + s.listenerCount('upgrade'));
});`
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", text)
		for _, before := range []string{"", "BEFORE=1"} {
			p := s.start([]string{onPort(at.Port), before}, "node", "app.js")
			if got := p.says(); got != "0" {
				t.Errorf("%s: %s listeners", before, got)
			}
			c, err := connect(local(at.Port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(askTime))
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			if answer, err := http.ReadResponse(c.in, nil); err != nil || answer.StatusCode != http.StatusOK {
				t.Errorf("%s: %+v, %v", before, answer, err)
			}
			_ = p.Process.Kill()
			p.end()
		}
	})
}

// What begins to listen when the drain has begun drains as well, in the process or
// in a new one.
func TestDrainOfLatecomers(t *testing.T) {
	const text = `
const cluster = require('cluster'), http = require('http');
const listen = () => http.createServer((q, r) => r.end('x')).listen(process.env.PORT, () => console.log('up'));
if (cluster.isPrimary) { cluster.fork(); process.on('SIGUSR2', () => cluster.fork()) }
else { listen(); process.on('SIGUSR2', listen) }`
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", text)
		p := s.start([]string{onPort(at.Port)}, "node", "app.js")
		main := p.Process.Pid
		first := expect(s, 1, func(e Listening) bool { return e.PID != main && e.Held })
		s.link.Drain(main, 10*time.Millisecond)
		expect(s, 1, func(e Drained) bool { return e.Main == main })
		_ = syscall.Kill(first.PID, syscall.SIGUSR2)
		expect(s, 2, func(e Closed) bool { return e.PID == first.PID })
		_ = p.Process.Signal(syscall.SIGUSR2)
		second := expect(s, 1, func(e Listening) bool { return e.PID != main && e.PID != first.PID })
		expect(s, 1, func(e Closed) bool { return e.PID == second.PID })
		drained := 0
		for _, e := range s.seen() {
			if _, ok := e.(Drained); ok {
				drained++
			}
		}
		if drained != 1 {
			t.Errorf("drained is told %d times", drained)
		}
	})
}

// HTTP/2 is drained by GOAWAY, when the pause is over; what is under way is
// answered.
func TestDrainHTTP2(t *testing.T) {
	const text = `
const http2 = require('http2'), fs = require('fs');
http2.createSecureServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, (q, r) => setTimeout(() => r.end('x'), q.url === '/slow' ? 600 : 0)).listen(process.env.PORT);`
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		certificate(t, s.dir)
		s.write("app.js", text)
		p := s.start([]string{onPort(at.Port)}, "node", "app.js")
		expect[Listening](s, 1, nil)
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		defer transport.CloseIdleConnections()
		c := http.Client{Transport: transport, Timeout: askTime}
		ask := func(path string) error {
			answer, err := c.Get("https://" + local(at.Port) + path)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if answer.ProtoMajor != 2 {
				return errors.New(answer.Proto)
			}
			_, err = io.Copy(io.Discard, answer.Body)
			return err
		}
		if err := ask("/"); err != nil {
			t.Fatal(err)
		}
		slow := make(chan error)
		go func() { slow <- ask("/slow") }()
		if err := ask("/"); err != nil { // it comes behind the slow one, on the same connection
			t.Error(err)
		}
		s.link.Drain(p.Process.Pid, 100*time.Millisecond)
		expect(s, 1, func(e Closed) bool { return e.Address == at })
		if err := ask("/"); err != nil {
			t.Errorf("within the pause: %v", err)
		}
		if err := <-slow; err != nil {
			t.Errorf("what was under way: %v", err)
		}
		expect(s, 1, func(e Drained) bool { return e.Main == p.Process.Pid })
	})
}

// The workers of an app's own cluster drain as well.
func TestDrainCluster(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", `const c = require('cluster'); if (c.isPrimary) { c.fork(); c.fork() } else `+app)
		p := s.start([]string{onPort(at.Port)}, "node", "app.js")
		main := p.Process.Pid
		expect(s, 2, func(e Listening) bool { return e.PID != main && e.Held })
		c, err := connect(local(at.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if keep, err := c.ask("/"); !keep || err != nil {
			t.Fatalf("keep %v, %v", keep, err)
		}
		if n := s.link.Drain(main, 10*time.Millisecond); n != 3 {
			t.Errorf("%d are told", n)
		}
		if _, err := io.ReadAll(c.in); err != nil {
			t.Error(err)
		}
		expect(s, 1, func(e Drained) bool { return e.Main == main })
		_ = p.Process.Signal(syscall.SIGTERM)
	})
}

// What has nothing left to do after its drain waits for the stop signal, for which
// it may have a handler, and ends by itself behind it; or when its supervisor is
// gone.
func TestDrainedWaitsForSignal(t *testing.T) {
	const text = `
const s = require('http').createServer().listen(process.env.PORT);
process.on('SIGTERM', () => { console.log('in order'); s.close() });
process.on('exit', c => console.log('exit', c));`
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", text)
		run := func() *process {
			p := s.start([]string{onPort(at.Port)}, "node", "app.js")
			expect(s, 1, func(e Listening) bool { return e.PID == p.Process.Pid })
			s.link.Drain(p.Process.Pid, 0)
			expect(s, 1, func(e Drained) bool { return e.Main == p.Process.Pid })
			return p
		}
		p := run()
		_ = p.Process.Signal(syscall.SIGTERM)
		s.link.Stopping(p.Process.Pid)
		if a, b := p.says(), p.says(); a != "in order" || b != "exit 0" {
			t.Errorf("it says %q, %q", a, b)
		}
		p = run()
		s.link.Close()
		if got := p.says(); got != "exit 0" {
			t.Errorf("without a supervisor it says %q", got)
		}
	})
}
