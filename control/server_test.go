package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fake is a supervisor that a test plays. What is asked of it comes out of asked;
// a request that may last is answered when something is put into outcome.
type fake struct {
	asked   chan string
	outcome chan error
	gone    chan error // why a request that may last was given up
	lasting bool       // they last

	mu    sync.Mutex
	state State
}

func newFake() *fake {
	return &fake{
		asked: make(chan string, 1000), outcome: make(chan error), gone: make(chan error, 1000),
		state: State{
			App: App{UID: "web", Args: []string{}}, State: "running", PID: 7, LastPID: 7, Ready: true,
			Workers: []Worker{{State: "running", PID: 7, Ready: true}, {Worker: 1, State: "backoff", NotReady: "it waits"}},
		},
	}
}

func (f *fake) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fake) Recipe() Recipe {
	return Recipe{Program: "evermore", Args: []string{"app.js"}, Env: []string{"SECRET=1"}}
}

func (f *fake) Deaths() Deaths {
	code := 137
	return Deaths{UID: "web", Deaths: []Death{{Reason: "oom", Code: &code, Sender: &Sender{By: "kernel"}}}, Counts: newCounts(time.Unix(1, 0))}
}

func (f *fake) last(ctx context.Context) error {
	if !f.lasting {
		return nil
	}
	select {
	case err := <-f.outcome:
		return err
	case <-ctx.Done():
		f.gone <- ctx.Err()
		return ctx.Err()
	}
}

func (f *fake) Restart(ctx context.Context) error {
	f.asked <- "restart"
	return f.last(ctx)
}

func (f *fake) Reload(ctx context.Context) error {
	f.asked <- "reload"
	return f.last(ctx)
}

func (f *fake) Scale(_ context.Context, n int) error {
	f.asked <- fmt.Sprintf("scale %d", n)
	if n == 99 {
		return errors.New("a reload is under way")
	}
	return nil
}

func (f *fake) Stop(ctx context.Context, by syscall.Signal) error {
	f.asked <- fmt.Sprintf("stop %d", by)
	return f.last(ctx)
}

func (f *fake) Signal(_ context.Context, s syscall.Signal) error {
	f.asked <- fmt.Sprintf("signal %d", s)
	if s == syscall.SIGHUP {
		return errors.New("the app is not running")
	}
	return nil
}

func (f *fake) Logs(ctx context.Context, w io.Writer, stream string, n int, follow bool) error {
	f.asked <- fmt.Sprintf("logs %s %d %v", stream, n, follow)
	if stream == "err" {
		return errors.New("there is no file for err")
	}
	_, err := fmt.Fprintf(w, "the last %d\n", n)
	if follow && f.lasting && err == nil {
		<-ctx.Done()
	}
	return err
}

// serve serves a fake and gives the record by which it is found.
func serve(t testing.TB, f *fake) (*Record, *Server) {
	t.Helper()
	root := t.TempDir()
	reg, err := Register(Record{App: App{UID: "web"}}, root)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := Serve(reg, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if srv.over.Err() == nil {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			srv.Ended(ctx, 0)
		}
		reg.Remove()
	})
	entries, err := listIn(root)
	if err != nil || len(entries) != 1 || entries[0].Status != Running {
		t.Fatalf("listed: %+v, %v", entries, err)
	}
	return &entries[0].Record, srv
}

// raw sends bytes and gives the connection.
func raw(t testing.TB, r *Record, text string) net.Conn {
	t.Helper()
	conn, err := r.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// answerOf reads one answer.
func answerOf(t testing.TB, conn net.Conn) (*http.Response, string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// inTime is a time that only what hangs uses up.
func inTime(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAPI(t *testing.T) {
	f := newFake()
	r, srv := serve(t, f)
	ctx := inTime(t)
	if s, err := r.State(ctx); err != nil || s.UID != "web" || s.PID != 7 || !s.Ready {
		t.Errorf("state %+v, %v", s, err)
	}
	if p, err := r.AskRecipe(ctx); err != nil || p.Program != "evermore" || p.Env[0] != "SECRET=1" {
		t.Errorf("recipe %+v, %v", p, err)
	}
	if pid, err := r.Restart(ctx); err != nil || pid != 7 || <-f.asked != "restart" {
		t.Errorf("restart %d, %v", pid, err)
	}
	if workers, err := r.Reload(ctx); err != nil || len(workers) != 2 || workers[1].NotReady != "it waits" || <-f.asked != "reload" {
		t.Errorf("reload %+v, %v", workers, err)
	}
	if err := r.Scale(ctx, 4); err != nil || <-f.asked != "scale 4" {
		t.Errorf("scale %v", err)
	}
	if err := r.Signal(ctx, "usr2"); err != nil || <-f.asked != "signal 12" {
		t.Errorf("signal %v", err)
	}
	var refused *Failed
	if err := r.Signal(ctx, "HUP"); !errors.As(err, &refused) || refused.Status != 409 || refused.Why != "the app is not running" {
		t.Errorf("signal %v", err)
	}
	<-f.asked
	for query, want := range map[string]string{
		"": "logs log 100 false", "?n=3&stream=out": "logs out 3 false", "?follow=true": "logs log 100 true", "?follow=1": "logs log 100 false",
	} {
		body, err := r.Open(ctx, "/v1/logs"+query)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(body)
		body.Close()
		if got := <-f.asked; got != want || !strings.HasPrefix(string(text), "the last ") {
			t.Errorf("%s: %s, %q", query, got, text)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if by := <-f.asked; by != "stop 2" {
			t.Errorf("asked %q", by)
		}
		srv.Ended(ctx, 130)
	}()
	if code, err := r.Stop(ctx, StopRequest{Signal: "INT"}); err != nil || code != 130 {
		t.Errorf("stop %d, %v", code, err)
	}
	<-ended
	if _, err := r.State(ctx); err == nil {
		t.Error("it answers after its end")
	}
}

// Every answer that is no success is a Failure.
func TestRefusals(t *testing.T) {
	f := newFake()
	r, _ := serve(t, f)
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	for _, c := range []struct {
		request string
		status  int
		why     string
	}{
		{get("/"), 404, "there is no /"},
		{get("/v2/state"), 404, "there is no /v2/state"},
		{get("/v1/state/"), 404, "there is no /v1/state/"},
		{get("/v1/stop"), 405, "use POST for /v1/stop"},
		{post("/v1/state", ""), 405, "use GET for /v1/state"},
		{strings.Replace(get("/v1/restart"), "GET", "DELETE", 1), 405, "use POST for /v1/restart"},
		{post("/v1/stop", "{"), 400, "cannot read the request: unexpected EOF"},
		{post("/v1/stop", "[]"), 400, "cannot read the request: json: "},
		{post("/v1/stop", `{"signal":9}`), 400, "cannot read the request: json: "},
		{post("/v1/stop", `{"force":true}`), 400, `cannot read the request: json: unknown field "force"`},
		{post("/v1/stop", `{} {}`), 400, "cannot read the request: something follows"},
		{post("/v1/stop", `{"signal":"NOPE"}`), 400, `unknown signal "NOPE"`},
		{post("/v1/stop", `{"signal":"0"}`), 400, `unknown signal "0"`},
		{post("/v1/restart", `{"signal":"TERM"}`), 400, `cannot read the request: json: unknown field "signal"`},
		{post("/v1/reload", `{"text":"x"}`), 400, `cannot read the request: json: unknown field "text"`},
		{post("/v1/scale", ""), 400, "instances is 0: use 1 to 128"},
		{post("/v1/scale", `{"instances":129}`), 400, "instances is 129: use 1 to 128"},
		{post("/v1/scale", `{"instances":99}`), 409, "a reload is under way"},
		{post("/v1/signal", ""), 400, `unknown signal ""`},
		{post("/v1/signal", `{"signal":"HUP"}`), 409, "the app is not running"},
		{post("/v1/signal", strings.Repeat(" ", maxBody+1)), 413, "cannot read the request: http: request body too large"},
		{get("/v1/logs?n=x"), 400, `cannot read n="x" as a number of lines`},
		{get("/v1/logs?n=-1"), 400, `cannot read n="-1" as a number of lines`},
		{get("/v1/logs?stream=all"), 400, `unknown stream "all": use log, out or err`},
		{get("/v1/logs?stream=err"), 404, "there is no file for err"},
	} {
		res, body := answerOf(t, raw(t, r, c.request))
		var said Failure
		if err := json.Unmarshal([]byte(body), &said); err != nil || res.StatusCode != c.status || !strings.HasPrefix(said.Error, c.why) || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%.60q: got %s %s", c.request, res.Status, body)
		}
		if res.StatusCode == 405 && res.Header.Get("Allow") == "" {
			t.Errorf("%.60q: no Allow", c.request)
		}
	}
	for text, want := range map[string]string{
		"GET /v1/state HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n": "HTTP/1.1 431 ",
		"hello\r\n\r\n":                    "HTTP/1.1 400 ",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "HTTP/1.1 400 ",
	} {
		conn, err := r.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, text)
		_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); string(got) != want {
			t.Errorf("%.20q: got %q, %v", text, got, err)
		}
		conn.Close()
	}
	if _, err := r.State(inTime(t)); err != nil {
		t.Error(err)
	}
}

// Who says nothing, or only a part, loses the connection; all others are served
// meanwhile and afterwards, and nothing is left of it.
func TestSlowRequests(t *testing.T) {
	f := newFake()
	r, srv := serve(t, f)
	routines := runtime.NumGoroutine()
	var conns []net.Conn
	for i := range maxConns + 8 { // the last wait for the first
		text := []string{"", "GET /v1/state HTTP/1.1\r\nHos", "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"}[i%3]
		conns = append(conns, raw(t, r, text))
	}
	if _, err := r.State(inTime(t)); err != nil {
		t.Error(err)
	}
	for i, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
		text, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) || i%3 == 0 && len(text) > 0 {
			t.Fatalf("connection %d: got %q, %v", i, text, err)
		}
	}
	if len(f.asked) > 0 {
		t.Errorf("the supervisor was asked: %s", <-f.asked)
	}
	until(t, "the end of what served them", func() bool { return runtime.NumGoroutine() <= routines })
	if n := len(srv.lasting); n != 0 {
		t.Errorf("%d tokens are missing", n)
	}
}

// A reload is answered when it is over, and its failure says why.
func TestReloadIsAnsweredAtItsEnd(t *testing.T) {
	f := newFake()
	f.lasting = true
	r, _ := serve(t, f)
	answered := make(chan error, 1)
	go func() {
		_, err := r.Reload(inTime(t))
		answered <- err
	}()
	if got := <-f.asked; got != "reload" {
		t.Errorf("asked %q", got)
	}
	select {
	case err := <-answered:
		t.Fatalf("it was answered before its end: %v", err)
	default:
	}
	f.outcome <- errors.New("rolled back: the new process ended")
	var refused *Failed
	if err := <-answered; !errors.As(err, &refused) || refused.Status != http.StatusConflict || refused.Why != "rolled back: the new process ended" {
		t.Errorf("got %v", err)
	}
}

// Readers and waiters, however many, keep out nobody who commands.
func TestManyReaders(t *testing.T) {
	f := newFake()
	f.lasting = true
	r, srv := serve(t, f)
	requests := []string{
		"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/restart HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n",
		// With a body that nobody asked for.
		"GET /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
	}
	var conns []net.Conn
	for i := range maxLasting {
		conns = append(conns, raw(t, r, requests[i%len(requests)]))
	}
	until(t, "all of them", func() bool { return len(srv.lasting) == maxLasting })
	for _, request := range requests {
		if res, body := answerOf(t, raw(t, r, request)); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "end one of them") {
			t.Errorf("%.20q: got %s %s", request, res.Status, body)
		}
	}
	if _, err := r.State(inTime(t)); err != nil {
		t.Error(err)
	}
	// Those who go away are noticed.
	for _, conn := range conns {
		conn.Close()
	}
	until(t, "the end of what they asked for", func() bool { return len(srv.lasting) == 0 })
	for range len(conns) / len(requests) { // the restarts
		if err := <-f.gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if n := len(srv.readers); n != 0 {
		t.Errorf("%d readers of events are left", n)
	}
}

func TestEvents(t *testing.T) {
	r, srv := serve(t, newFake())
	srv.Publish(func() []byte { t.Error("an event was made for nobody"); return nil })
	body, err := r.Open(inTime(t), "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	for i := range eventBuffer {
		srv.Publish(func() []byte { return fmt.Appendf(nil, `{"n":%d}`+"\n", i) })
	}
	go srv.Ended(inTime(t), 0) // and who reads gets all of it
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != eventBuffer {
		t.Fatalf("got %d lines", len(lines))
	}
	for i, line := range lines {
		if line != fmt.Sprintf(`{"n":%d}`, i) {
			t.Fatalf("line %d is %s", i, line)
		}
	}
	<-srv.over.Done()
	srv.Publish(func() []byte { t.Error("an event was made for nobody"); return nil })
}

// A reader that lags is cut off, in the midst of a line too; it holds up neither
// who tells the events nor who reads them.
func TestLaggingReader(t *testing.T) {
	r, srv := serve(t, newFake())
	lagging, err := r.Open(inTime(t), "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer lagging.Close()
	reading, err := r.Open(inTime(t), "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	line := append(bytes.Repeat([]byte("x"), 4<<10), '\n')
	lines := bufio.NewReaderSize(reading, len(line))
	published := 0
	for { // each one is read before the next is told
		srv.Publish(func() []byte { return line })
		published++
		if _, err := lines.ReadSlice('\n'); err != nil {
			t.Fatal(err)
		}
		srv.mu.Lock()
		left := len(srv.readers)
		srv.mu.Unlock()
		if left == 1 {
			break
		}
		if published > 100*eventBuffer {
			t.Fatal("the reader is not cut off")
		}
	}
	until(t, "the end of what served it", func() bool { return len(srv.lasting) == 1 })
	if n, _ := io.Copy(io.Discard, lagging); n >= int64(published*len(line)) {
		t.Errorf("it read all %d bytes", n)
	}
}

// Whoever is served when the end comes learns of it.
func TestEnded(t *testing.T) {
	routines := runtime.NumGoroutine()
	f := newFake()
	f.lasting = true
	r, srv := serve(t, f)
	files, _ := filepath.Glob(filepath.Join(r.root, "sock", "*"))
	if len(files) != 1 || !strings.HasSuffix(files[0], "/"+r.socket()) {
		t.Errorf("the sockets are %q", files)
	}
	post := "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	stops := []net.Conn{raw(t, r, fmt.Sprintf(post, "/v1/stop")), raw(t, r, fmt.Sprintf(post, "/v1/stop"))}
	restart := raw(t, r, fmt.Sprintf(post, "/v1/restart"))
	logs := raw(t, r, "GET /v1/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
	events := raw(t, r, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 4 {
		<-f.asked
	}
	until(t, "the reader of events", func() bool { srv.mu.Lock(); defer srv.mu.Unlock(); return len(srv.readers) == 1 })
	for range 3 { // as the loop does: it answers who waits, then it is over
		f.outcome <- nil
	}
	ctx := inTime(t)
	srv.Ended(ctx, 143)
	if ctx.Err() != nil {
		t.Error("the end had to be waited for")
	}
	for _, conn := range stops {
		if res, body := answerOf(t, conn); res.StatusCode != 200 || body != "{\"code\":143}\n" {
			t.Errorf("stop: %s %s", res.Status, body)
		}
	}
	if res, _ := answerOf(t, restart); res.StatusCode != 200 {
		t.Errorf("restart: %s", res.Status)
	}
	if res, body := answerOf(t, logs); res.StatusCode != 200 || body != "the last 100\n" {
		t.Errorf("logs: %s %s", res.Status, body)
	}
	if res, body := answerOf(t, events); res.StatusCode != 200 || body != "" {
		t.Errorf("events: %s %s", res.Status, body)
	}
	if files, _ := filepath.Glob(filepath.Join(r.root, "sock", "*")); len(files) > 0 {
		t.Errorf("left are %q", files)
	}
	if _, err := r.State(ctx); err == nil {
		t.Error("it answers after its end")
	}
	until(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= routines })
}

// Calls leave nothing behind, whatever their outcome.
func TestNoLeaks(t *testing.T) {
	f := newFake()
	r, srv := serve(t, f)
	fds := func() int { return files(t, "/proc/self/fd") }
	calls := func() {
		ctx := inTime(t)
		_, _ = r.State(ctx)
		_ = r.Signal(ctx, "nonsense")
		_ = r.Call(ctx, "POST", "/v1/stop", func() {}, nil) // no JSON
		done, cancel := context.WithCancel(ctx)
		cancel()
		_, _ = r.State(done)
		other := *r
		other.PID++ // its socket is that of another process
		_, _ = other.State(ctx)
		body, err := r.Open(ctx, "/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
	}
	calls()
	until(t, "quiet", func() bool { return len(srv.lasting) == 0 })
	before, routines := fds(), runtime.NumGoroutine()
	for range 20 {
		calls()
	}
	until(t, "the end of what they left", func() bool { return fds() <= before && runtime.NumGoroutine() <= routines })
}

// FuzzAPI throws bytes at the API. Each answer is well-formed HTTP, and the next
// good request is answered.
func FuzzAPI(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "\x00\x01\x02", "GET", "GET / HTTP/1.1\r\n\r\n", "GET /v1/state HTTP/1.0\r\n\r\n",
		"GET /v1/state HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/state HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET //v1//state HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD /v1/recipe HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /v1/events HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\nmore",
		"GET /v1/logs?n=99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/logs?n=%zz&stream=;; HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"signal\":\"INT\"}",
		"POST /v1/signal HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{\"signal\":\"USR2\"}\r\n0\r\n\r\n",
		"POST /v1/signal HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nffffffffffffffff\r\n",
		"POST /v1/restart HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
		"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00",
	} {
		f.Add([]byte(seed))
	}
	supervisor := newFake()
	go func() {
		for range supervisor.asked {
		}
	}()
	r, _ := serve(f, supervisor)
	f.Fuzz(func(t *testing.T, text []byte) {
		conn, err := r.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
		go func() {
			_, _ = conn.Write(text)
			_ = conn.CloseWrite()
		}()
		answers := bufio.NewReader(conn)
		for {
			if _, err := answers.Peek(1); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%q is neither answered nor refused", text)
				}
				break
			}
			// What HEAD asked has no body: nothing follows in any case.
			head := &http.Request{Method: http.MethodHead}
			res, err := http.ReadResponse(answers, head)
			if err != nil {
				t.Fatalf("%q is answered by no HTTP: %v", text, err)
			}
			if res.StatusCode >= 200 {
				break
			}
		}
		if _, err := r.State(inTime(t)); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
	})
}
