package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// pair is a link on which the test itself is the app.
func pair(t *testing.T) (*supervisor, func() *net.UnixConn) {
	t.Helper()
	s := newSupervisor(t, "", Options{}, Address{Port: freePort(t)})
	s.mu.Lock()
	s.mains = []int{os.Getpid()}
	s.mu.Unlock()
	return s, func() *net.UnixConn {
		t.Helper()
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: "@" + s.link.name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// listensOn are the lines of a process that listens on n ports.
func listensOn(n int) string {
	var lines strings.Builder
	for port := range n {
		fmt.Fprintf(&lines, `{"listening":{"port":%d},"closed":{"port":%d}}`+"\n", port+1, port+1000)
	}
	return lines.String()
}

const hello = `{"hello":{"thread":0}}` + "\n"

// Who breaks the rules is dropped, with a reason; the link goes on.
func TestHostileLines(t *testing.T) {
	for name, c := range map[string]struct{ text, why string }{
		"no hello":          {`{"ready":true}` + "\n", "it did not say who it is first"},
		"hello twice":       {hello + hello, "it did not say once, and truly, who it is"},
		"a negative thread": {`{"hello":{"thread":-1}}` + "\n", "it did not say once, and truly, who it is"},
		"no JSON":           {hello + "\x00\xff{\n", "it sent a line that is none of the link's"},
		"wrong types":       {hello + `{"listening":7}` + "\n", "it sent a line that is none of the link's"},
		"a port too large":  {hello + `{"listening":{"port":70000}}` + "\n", "it sent a line that is none of the link's"},
		"nowhere":           {hello + `{"listening":{}}` + "\n", "it listens where nobody can"},
		"a name":            {hello + `{"listening":{"host":"localhost","port":80}}` + "\n", "it listens where nobody can"},
		"a path too long":   {hello + `{"listening":{"path":"/` + strings.Repeat("x", longestPath) + `"}}` + "\n", "it listens where nobody can"},
		"everywhere":        {hello + listensOn(mostPlaces+1), "it listens where nobody can, or on more than 64 addresses"},
		"closed elsewhere":  {hello + `{"closed":{"port":80}}` + "\n" + `{"closed":{},"held":"80"}` + "\n", ""},
		"an endless line":   {hello + strings.Repeat("x", longestLine+5000), "it sent a line of more than 65536 bytes"},
		"a flood":           {hello + strings.Repeat("{}\n", mostLines+1), "it sent more than 50 lines a second"},
		"half a line":       {hello + `{"ready":`, ""},
		"strange numbers":   {hello + `{"stats":{"lag":1},"id":9223372036854775807}` + "\n" + `{"pong":true,"closed":{"port":1}}` + "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, dial := pair(t)
			conn := dial()
			_, _ = conn.Write([]byte(c.text))
			_ = conn.CloseWrite()
			if e := expect[Gone](s, 1, nil); !strings.HasPrefix(e.Why, c.why) || (c.why == "") != (e.Why == "") {
				t.Errorf("gone: %q, want %q", e.Why, c.why)
			}
			next := dial()
			fmt.Fprint(next, hello, `{"ready":true}`, "\n")
			expect[AppReady](s, 1, nil)
		})
	}
}

func TestReasonsArePrintable(t *testing.T) {
	s, dial := pair(t)
	at := s.sockets.Addresses()[0]
	c := dial()
	why, _ := json.Marshal("a\x1b[31m\n" + strings.Repeat("é", 300))
	fmt.Fprint(c, hello, `{"id":3,"release":["`+at.String()+`","no such","80"],"why":`, string(why), "}\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); line != `{"released":3}`+"\n" {
		t.Errorf("answer %q", line)
	}
	if e := expect[Released](s, 1, nil); !strings.HasPrefix(e.Why, "a [31m éé") || len([]rune(e.Why)) > maxMessage+1 {
		t.Errorf("why: %q", e.Why)
	}
}

// A process that is none of the app's is refused, whatever it says.
func TestForeignProcess(t *testing.T) {
	s, dial := pair(t)
	s.mu.Lock()
	s.mains = nil
	s.mu.Unlock()
	for range 20 {
		c := dial()
		_, _ = c.Write([]byte(hello + `{"ready":true}` + "\n"))
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
	}
	if e := expect[Refused](s, 1, nil); e.PID != os.Getpid() {
		t.Errorf("refused: %+v", e)
	}
	for _, e := range s.seen() {
		if _, ok := e.(Refused); !ok {
			t.Errorf("event %T %+v", e, e)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	s, dial := pair(t)
	var conns []*net.UnixConn
	for range mostConns {
		c := dial()
		fmt.Fprint(c, hello, `{"ready":true}`, "\n")
		conns = append(conns, c)
	}
	expect[AppReady](s, mostConns, nil)
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one more is let in")
	}
	conns[0].Close()
	expect[Gone](s, 1, nil)
	fmt.Fprint(dial(), hello, `{"ready":true}`, "\n")
	expect[AppReady](s, mostConns+1, nil)
}

// Who does not read never makes the caller wait, and is dropped.
func TestSlowReader(t *testing.T) {
	s, dial := pair(t)
	c := dial()
	fmt.Fprint(c, hello, `{"ready":true}`, "\n")
	expect[AppReady](s, 1, nil)
	for n := 0; s.link.Shutdown(os.Getpid()); n++ {
		if n > 1<<20 {
			t.Fatal("it takes everything")
		}
	}
	if e := expect[Gone](s, 1, nil); e.Why != "it does not read what it is sent" {
		t.Errorf("gone: %q", e.Why)
	}
	if _, err := s.link.Stats(t.Context(), os.Getpid()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("stats: %v", err)
	}
}

// Who owes stats is not asked for more of them: what it would have to read does not
// pile up.
func TestStatsAreOwedOnce(t *testing.T) {
	s, dial := pair(t)
	c := dial()
	fmt.Fprint(c, hello, `{"ready":true}`, "\n")
	expect[AppReady](s, 1, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.link.Stats(ended, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("asked: %v", err)
	}
	lines := bufio.NewScanner(c)
	for i, answer := range []string{`{"id":1}`, `{"id":2,"stats":null}`, `{"id":3,"stats":{"lag":1}}`} {
		if _, err := s.link.Stats(t.Context(), os.Getpid()); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("asked again: %v", err)
		}
		if !lines.Scan() {
			t.Fatal("nothing was asked")
		}
		fmt.Fprint(c, answer, "\n", `{"ready":true}`, "\n")
		expect[AppReady](s, i+2, nil)
		if _, err := s.link.Stats(ended, os.Getpid()); !errors.Is(err, context.Canceled) {
			t.Errorf("asked when nothing is owed: %v", err)
		}
	}
}

// What a killed evermore has left behind is removed, and nothing else.
func TestStaleFiles(t *testing.T) {
	dir := t.TempDir()
	age := func(path string, by time.Duration) string {
		at := time.Now().Add(-by)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var living *net.UnixListener
	socket := func(name string, by time.Duration, alive bool) string {
		path := filepath.Join(dir, name)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if t.Cleanup(func() { l.Close() }); !alive {
			l.Close()
		} else {
			living = l
		}
		return age(path, by)
	}
	stale := socket(fileName+"stale", 2*staleAge, false)
	kept := []string{
		socket(fileName+"alive", time.Hour, true),
		socket(fileName+"young", 0, false),
		socket("other", time.Hour, false),
		filepath.Join(dir, fileName+"file"),
	}
	if err := os.WriteFile(kept[3], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(kept[3], time.Hour)
	l, err := Listen(Options{Dirs: []string{"/no/such/folder", dir}})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Lstat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", stale, err)
	}
	for _, path := range kept {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	// Who lives is not disturbed by it.
	_ = living.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if c, err := living.Accept(); err == nil {
		c.Close()
		t.Error("somebody has connected")
	}
}

func TestPing(t *testing.T) {
	s, dial := pair(t)
	c := dial()
	fmt.Fprint(c, hello, `{"ready":true}`, "\n")
	expect[AppReady](s, 1, nil)
	lines := bufio.NewReader(c)
	main := os.Getpid()
	if pid, _ := s.link.Ping(main); pid != 0 {
		t.Errorf("asked for the first time, %d is silent", pid)
	}
	// What never answered may not know how to, or be starting still.
	if pid, _ := s.link.Ping(main); pid != 0 {
		t.Errorf("it never answered, %d is silent", pid)
	}
	if line, _ := lines.ReadString('\n'); line != `{"ping":true}`+"\n" {
		t.Errorf("it got %q", line)
	}
	fmt.Fprintln(c, `{"pong":true}`)
	if e := expect[Pong](s, 1, nil); e.After <= 0 || e.Main != main || e.PID != main {
		t.Errorf("%+v", e)
	}
	s.link.Ping(main)
	_, first := s.link.Ping(main)
	pid, silent := s.link.Ping(main)
	if pid != main || first <= 0 || silent < first {
		t.Errorf("silent: %d for %v, then %v", pid, first, silent)
	}
	s.link.Forgive(main)
	if _, after := s.link.Ping(main); after >= silent {
		t.Errorf("forgiven, it is silent for %v, before for %v", after, silent)
	}
	fmt.Fprintln(c, `{"pong":true}`)
	expect[Pong](s, 2, nil)
	if pid, _ := s.link.Ping(main); pid != 0 {
		t.Errorf("it has answered, %d is silent", pid)
	}
	if pid, _ := s.link.Ping(main + 1); pid != 0 {
		t.Errorf("of another run %d is silent", pid)
	}
}

// Drained comes when the last one is done, or gone.
func TestDrained(t *testing.T) {
	s, dial := pair(t)
	var conns []*net.UnixConn
	for range 3 {
		c := dial()
		fmt.Fprint(c, hello, `{"ready":true}`, "\n")
		conns = append(conns, c)
	}
	expect[AppReady](s, 3, nil)
	if n := s.link.Drain(os.Getpid(), 0); n != 3 {
		t.Errorf("%d are told", n)
	}
	fmt.Fprintln(conns[0], `{"drained":true}`)
	fmt.Fprintln(conns[0], `{"drained":true,"ready":true}`)
	conns[1].Close()
	expect[Gone](s, 1, nil)
	expect[AppReady](s, 4, nil)
	for _, e := range s.seen() {
		if _, ok := e.(Drained); ok {
			t.Error("one has not answered")
		}
	}
	fmt.Fprintln(conns[2], `{"drained":true}`)
	if e := expect[Drained](s, 1, nil); e.Main != os.Getpid() {
		t.Errorf("%+v", e)
	}
	// Who comes later is told all of it, until the run is over.
	s.link.Stopping(os.Getpid())
	late := dial()
	fmt.Fprint(late, hello)
	lines := bufio.NewReader(late)
	for _, want := range []string{`{"drain":0}`, `{"stopping":true}`} {
		if line, _ := lines.ReadString('\n'); line != want+"\n" {
			t.Errorf("who comes late is told %q, not %s", line, want)
		}
	}
	for _, c := range append(conns, late) {
		c.Close()
	}
	expect[Gone](s, 4, nil)
	next := dial()
	fmt.Fprint(next, hello, `{"ready":true}`, "\n")
	expect[AppReady](s, 5, nil)
	s.link.Ping(os.Getpid())
	if line, _ := bufio.NewReader(next).ReadString('\n'); line != `{"ping":true}`+"\n" {
		t.Errorf("the next run is told %q", line)
	}
}

// Close ends every goroutine, whatever they are doing: here nobody receives events.
func TestLinkClose(t *testing.T) {
	before := runtime.NumGoroutine()
	l, err := Listen(Options{Dirs: []string{t.TempDir()}, Owner: func(int) (int, bool) { return 1, true }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, err := net.Dial("unix", l.file)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, hello, `{"ready":true}`, "\n", `{"ready":true}`, "\n")
	}
	until(t, "connections", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.conns) == 3 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Stats(ctx, 1); err == nil {
		t.Error("stats came from nowhere")
	}
	l.Close()
	l.Close()
	if _, err := os.Stat(l.file); err == nil {
		t.Error("the socket's file is left")
	}
	until(t, "the goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

func FuzzLink(f *testing.F) {
	for _, text := range []string{
		hello + `{"ready":true}` + "\n",
		hello + `{"listening":{"host":"::","port":3000},"held":"3000"}` + "\n" + `{"closed":{"port":3000},"held":"3000"}` + "\n",
		hello + `{"release":["3000"],"why":"x","id":1}` + "\n",
		hello + `{"stats":{"version":"v22.1.0","delay":{"min":1}},"id":1}` + "\n{\"drained\":true}\n{\"pong\":true}\n",
		"\n\n{}", strings.Repeat("[", 9000) + "\n", hello + "{\"listening\":{\"path\":\"\xff\"}}\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l := &Link{
			events: make(chan Event), done: make(chan struct{}), conns: map[*conn]struct{}{},
			draining: map[int]*drain{}, waiters: map[int64]waiter{},
		}
		close(l.done) // nobody receives
		c := &conn{held: map[string]int{}, unheld: map[Address]int{}, from: From{Thread: -1}}
		err := l.read(c, bytes.NewReader(bytes.ReplaceAll(text, []byte("release"), nil)))
		if err == nil {
			t.Error("it ended without an error")
		}
		if len(c.held) != 0 {
			t.Errorf("it holds %v", c.held)
		}
		if len(c.unheld) > mostPlaces {
			t.Errorf("it listens on %d addresses", len(c.unheld))
		}
	})
}
