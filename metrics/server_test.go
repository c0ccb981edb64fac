package metrics

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// patience is how long a test waits for what must come; nothing is measured by
// it.
const patience = 30 * time.Second

// serve starts a server over all the series of src. At the end of the test it is
// stopped, and neither a goroutine nor a descriptor may be left.
func serve(t *testing.T, src Source, o ServerOptions) (s *Server, addr string) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reg, _, _ := newRegistry(src)
	s = NewServer(src, reg, o)
	s.Serve(ln)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
		eventually(t, "every goroutine has ended", func() bool { return runtime.NumGoroutine() <= goroutines })
		eventually(t, "every descriptor is closed", func() bool { return openFiles(t) <= files })
	})
	return s, ln.Addr().String()
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// eventually waits until a statement is true.
func eventually(t *testing.T, statement string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("it is not so that %s\n%s", statement, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// client is one connection of a test.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // before the server's own cleanup
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{c, t, bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("cannot send %.40q: %v", s, err)
	}
}

// answer reads one answer to a request with that method.
func (c *client) answer(method string) (res *http.Response, body string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("cannot read the answer: %v", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("cannot read the body: %v", err)
	}
	return res, string(b)
}

// ended waits until the server closes the connection.
func (c *client) ended() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("the connection is not closed: %v", err)
	}
}

// ask has a request answered, after which the connection is idle.
func (c *client) ask() {
	c.t.Helper()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.answer("GET")
}

const probeRequest = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// probeAnswers says that a probe on a new connection is answered.
func probeAnswers(t *testing.T, addr string) {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	c.send(probeRequest)
	if res, body := c.answer("GET"); res.StatusCode != 200 || body != "ok\n" {
		t.Errorf("the probe's answer is %s %q", res.Status, body)
	}
}

func TestServeMetrics(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	c := dial(t, addr)
	for range 3 { // on one connection, as Prometheus does
		c.send("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nAccept: application/vnd.google.protobuf;q=1,text/plain;q=0.5\r\n\r\n")
		res, body := c.answer("GET")
		for name, want := range map[string]string{
			"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Content-Encoding": "",
			"X-Content-Type-Options": "nosniff", "Content-Length": fmt.Sprint(len(body)), "Connection": "",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if res.StatusCode != 200 || !strings.Contains(body, "\nevermore_child_up{worker=\"0\"} 1\n") {
			t.Errorf("the answer is %s\n%s", res.Status, body)
		}
	}
}

func TestHeadHasNoBody(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	c := dial(t, addr)
	for _, path := range []string{"/", "/metrics", "/livez", "/readyz", "/healthz"} {
		c.send("HEAD " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		res, body := c.answer("HEAD")
		if res.StatusCode != 200 || body != "" || res.ContentLength <= 0 {
			t.Errorf("HEAD %s is %s with a length of %d and %q", path, res.Status, res.ContentLength, body)
		}
	}
}

func TestOnlyGetAndHead(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	for _, line := range []string{
		"POST /metrics", "PUT /livez", "DELETE /readyz", "PATCH /healthz", "TRACE /", "OPTIONS *", "OPTIONS /metrics", "CONNECT x:80", "BREW /",
	} {
		c := dial(t, addr)
		c.send(line + " HTTP/1.1\r\nHost: x\r\n\r\n")
		res, _ := c.answer("GET")
		if res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s is %s, Allow: %q", line, res.Status, res.Header.Get("Allow"))
		}
		c.ended()
	}
}

// A body is neither waited for nor read, however long it is said to be.
func TestBodiesAreRefused(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	tests := []struct {
		head   string
		status int
	}{
		{"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", 405},
		{"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 405},
		{"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", 413},
		{"GET /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413},
		{"GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 413},
	}
	for _, test := range tests {
		c := dial(t, addr)
		c.send(test.head)
		res, _ := c.answer("GET")
		if res.StatusCode != test.status || !res.Close {
			t.Errorf("%q is %s, closing: %v", test.head, res.Status, res.Close)
		}
		c.ended()
	}
	// One that is sent all the same is cut off, after its sender could read why.
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	sent := make(chan int64)
	go func() {
		n, _ := io.Copy(c.Conn, io.LimitReader(zeros{}, 1e9))
		sent <- n
	}()
	if res, _ := c.answer("GET"); res.StatusCode != 405 {
		t.Errorf("the answer is %s", res.Status)
	}
	if n := <-sent; n == 1e9 {
		t.Error("the whole body was taken")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestOldAndBrokenRequests(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	tests := []struct {
		name, request string
		status        int
	}{
		{"HTTP/1.0", "GET /readyz HTTP/1.0\r\n\r\n", 200},
		{"HTTP/1.0 to metrics", "GET /metrics HTTP/1.0\r\n\r\n", 200},
		{"absolute form", "GET http://elsewhere/readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200},
		{"no host", "GET /readyz HTTP/1.1\r\n\r\n", 400},
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405},
		{"bad path", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"bad length", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
		{"smuggling", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501},
		{"huge header", "GET / HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		{"many headers", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 10000) + "\r\n", 431},
		{"huge path", "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, addr)
			go io.WriteString(c.Conn, test.request) // the answer may come before all of it is sent
			if res, _ := c.answer("GET"); res.StatusCode != test.status {
				t.Errorf("the answer is %s, want %d", res.Status, test.status)
			}
			c.ended()
		})
	}
	probeAnswers(t, addr)
}

func TestPipelining(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	c := dial(t, addr)
	c.send(strings.Repeat("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 20) + "GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 20 {
		if res, body := c.answer("GET"); res.StatusCode != 200 || body != "ok\n" {
			t.Fatalf("the answer is %s %q", res.Status, body)
		}
	}
	if _, body := c.answer("GET"); !strings.HasSuffix(body, "livez check passed\n") {
		t.Errorf("the last answer is %q", body)
	}
}

func TestSlowlorisDoesNotKeepAProbeOut(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	for range 2 * defaultMaxConns {
		dial(t, addr).send("GET /metrics HTTP/1.1\r\nX-A: ")
	}
	for range 10 {
		probeAnswers(t, addr)
	}
}

func TestIdleConnectionsDoNotKeepAProbeOut(t *testing.T) {
	s, addr := serve(t, newApp(up()), ServerOptions{})
	var clients []*client
	for i := range 200 {
		c := dial(t, addr)
		if i%2 == 1 { // half of them have asked before
			c.ask()
		}
		clients = append(clients, c)
	}
	probeAnswers(t, addr)
	clients[1].ended() // one of the oldest was shed
	last := clients[len(clients)-1]
	last.send(probeRequest) // the youngest was not
	last.answer("GET")
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	if n := len(s.listener.conns); n > defaultMaxConns {
		t.Errorf("there are %d connections", n)
	}
}

func TestResetsAndSilentReadersDoNoHarm(t *testing.T) {
	_, addr := serve(t, newApp(up()), ServerOptions{})
	for range 50 {
		c := dial(t, addr)
		c.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
		_ = c.Conn.(*net.TCPConn).SetLinger(0) // Close sends a reset
		c.Close()
	}
	// These ask and never read: the answers fill the buffers and block.
	for range defaultMaxConns {
		c := dial(t, addr)
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(2048)
		go io.WriteString(c.Conn, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 2000))
	}
	for range 5 {
		probeAnswers(t, addr)
	}
}

// gate is an app that answers when it is opened.
func gate() (src *app, asked chan struct{}, open func()) {
	src = newApp(up())
	asked = make(chan struct{}, 1000)
	opened := make(chan struct{})
	src.check = func(ctx context.Context) (bool, string) {
		asked <- struct{}{}
		select {
		case <-opened:
			return true, ""
		case <-ctx.Done():
			return false, "it has not answered in time"
		}
	}
	return src, asked, sync.OnceFunc(func() { close(opened) })
}

func TestShedsWhoWaitsForNothingFirst(t *testing.T) {
	src, asked, open := gate()
	defer open()
	s, addr := serve(t, src, ServerOptions{MaxConns: 3})
	oldest := dial(t, addr)
	oldest.send(probeRequest)
	<-asked
	idle := func() *client {
		c := dial(t, addr)
		c.ask()
		eventually(t, "only the oldest waits for an answer", func() bool {
			s.listener.mu.Lock()
			defer s.listener.mu.Unlock()
			for i, c := range s.listener.conns {
				if c.answering != (i == 0) {
					return false
				}
			}
			return true
		})
		return c
	}
	second, third := idle(), idle()
	idle()
	second.ended()
	idle()
	third.ended()
	open()
	if res, _ := oldest.answer("GET"); res.StatusCode != 200 {
		t.Errorf("the oldest, which waited for its answer, got %s", res.Status)
	}
}

func TestShedsTheOldestWhenAllWait(t *testing.T) {
	src, asked, open := gate()
	defer open()
	_, addr := serve(t, src, ServerOptions{MaxConns: 2})
	var clients []*client
	for range 3 {
		c := dial(t, addr)
		c.send(probeRequest)
		<-asked
		clients = append(clients, c)
	}
	clients[0].ended()
	open()
	for _, c := range clients[1:] {
		if res, _ := c.answer("GET"); res.StatusCode != 200 {
			t.Errorf("the answer is %s", res.Status)
		}
	}
}

func TestStopLetsAnswersOut(t *testing.T) {
	// The app answers although the server is being stopped.
	src, asked, _ := gate()
	s, addr := serve(t, src, ServerOptions{})
	waiting, silent, slow := dial(t, addr), dial(t, addr), dial(t, addr)
	slow.send("GET /metrics HTTP/1.1\r\nX-A: ")
	idle := dial(t, addr)
	idle.ask()
	waiting.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked

	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	// Nothing was waited for: the app is not asked any more.
	if res, body := waiting.answer("GET"); res.StatusCode != 503 || !res.Close {
		t.Errorf("the answer is %s %q, closing: %v", res.Status, body, res.Close)
	}
	for _, c := range []*client{waiting, silent, slow, idle} {
		c.ended()
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}

func TestStopIsBounded(t *testing.T) {
	release := make(chan struct{})
	src := newApp(up())
	asked := make(chan struct{})
	src.check = func(context.Context) (bool, string) { // it does not heed its context
		close(asked)
		<-release
		return true, ""
	}
	s, addr := serve(t, src, ServerOptions{})
	c := dial(t, addr)
	c.send(probeRequest)
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop gives %v", err)
	}
	c.ended()
	close(release)
}

func TestStopWithoutServe(t *testing.T) {
	s := NewServer(newApp(up()), prometheus.NewRegistry(), ServerOptions{})
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(ln) // too late: it is closed
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}

// What goes wrong is told to the log, never to stderr, which is the child's too.
func TestPanicGoesToTheLog(t *testing.T) {
	var stderr bytes.Buffer
	log.SetOutput(&stderr)
	defer log.SetOutput(os.Stderr)
	src := newApp(up())
	var panicked atomic.Bool
	src.check = func(context.Context) (bool, string) {
		if panicked.CompareAndSwap(false, true) {
			panic("boo")
		}
		return true, ""
	}
	lines := make(chan string, 10)
	_, addr := serve(t, src, ServerOptions{Log: func(s string) { lines <- s }})
	c := dial(t, addr)
	c.send(probeRequest)
	c.ended()
	if line := <-lines; !strings.Contains(line, "boo") {
		t.Errorf("the log has %q", line)
	}
	probeAnswers(t, addr)
	if stderr.Len() > 0 {
		t.Errorf("stderr has %q", stderr.String())
	}
}

// pipes is a listener without a network, so that time can be made to pass.
type pipes struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, &net.OpError{Op: "accept", Err: err}
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial(t *testing.T) *client {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return &client{ours, t, bufio.NewReader(ours)}
}

func TestAcceptErrorsAreOutlived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		ln := newPipes()
		s := NewServer(newApp(up()), prometheus.NewRegistry(), ServerOptions{Log: func(line string) { lines = append(lines, line) }})
		s.Serve(ln)
		oldest, second := ln.dial(t), ln.dial(t)
		synctest.Wait()

		// Without descriptors the oldest connection gives its own.
		ln.errs <- syscall.EMFILE
		oldest.ended()
		began := time.Now()
		for range 20 { // what no retry can cure, as EINVAL, is tried ever more rarely
			ln.errs <- syscall.EINVAL
		}
		if d := time.Since(began); d < 10*time.Second || d > 20*time.Second {
			t.Errorf("twenty retries took %s", d)
		}
		third := ln.dial(t)
		for _, c := range []*client{second, third} {
			if c == second { // it has waited for longer than it may
				c.ended()
				continue
			}
			c.send(probeRequest)
			if res, _ := c.answer("GET"); res.StatusCode != 200 {
				t.Errorf("the answer is %s", res.Status)
			}
			c.ended()
		}
		ln.errs <- syscall.ENFILE // nothing is left to shed
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if len(lines) != 1 || !strings.Contains(lines[0], "too many open files") {
			t.Errorf("the log is %q", lines)
		}
	})
}

// No client holds a connection for long without asking, reading or being of use.
func TestTimeouts(t *testing.T) {
	tests := map[string]struct {
		act  func(c *client)
		want time.Duration
	}{
		"silent":            {func(*client) {}, headerTimeout},
		"half a header":     {func(c *client) { c.send("GET / HT") }, headerTimeout},
		"idle":              {func(c *client) { c.ask() }, idleTimeout},
		"half a second one": {func(c *client) { c.ask(); c.send("GET /") }, headerTimeout},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				s := NewServer(newApp(up()), prometheus.NewRegistry(), ServerOptions{})
				s.Serve(ln)
				c := ln.dial(t)
				test.act(c)
				began := time.Now()
				c.ended()
				if d := time.Since(began); d != test.want {
					t.Errorf("it was closed after %s, want %s", d, test.want)
				}
				if err := s.Stop(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
	t.Run("body that is never sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ln := newPipes()
			s := NewServer(newApp(up()), prometheus.NewRegistry(), ServerOptions{})
			s.Serve(ln)
			c := ln.dial(t)
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
			if res, _ := c.answer("GET"); res.StatusCode != 405 {
				t.Errorf("the answer is %s", res.Status)
			}
			began := time.Now()
			c.ended()
			// net/http waits for half a second, so that the answer gets through.
			if d := time.Since(began); d > time.Second {
				t.Errorf("it was closed after %s", d)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("silent reader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ln := newPipes()
			s := NewServer(newApp(up()), prometheus.NewRegistry(), ServerOptions{})
			s.Serve(ln)
			c := ln.dial(t)
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			time.Sleep(writeTimeout + time.Second)
			synctest.Wait()
			if _, err := io.WriteString(c.Conn, "x"); err == nil {
				t.Error("the connection is still there")
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
}

// A connection that is accepted while the server is being stopped is not served.
func TestNothingIsAdmittedWhileStopping(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	l := &listener{max: 1, open: new(sync.WaitGroup)}
	l.refuseAll()
	l.admit(theirs)
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is still open: %v", err)
	}
}

// One slow scrape does not hold up probes.
func TestProbesDoNotWaitForScrapes(t *testing.T) {
	src := newApp(up())
	collecting, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		once.Do(func() { close(collecting) })
		<-release
		return nil, nil
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(src, slow, ServerOptions{})
	s.Serve(ln)
	defer s.Stop(context.Background())
	defer close(release)
	dial(t, ln.Addr().String()).send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-collecting
	probeAnswers(t, ln.Addr().String())
}
